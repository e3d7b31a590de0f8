"""Public keys that load without complaint and are worth nothing: one of each class of threat A10."""

from __future__ import annotations

import functools
import math

from cryptography.hazmat.primitives.asymmetric import rsa

SMALL = math.prod(n for n in range(2, 752) if all(n % d for d in range(2, math.isqrt(n) + 1)))
ROCA_M = math.prod(n for n in range(2, 168) if all(n % d for d in range(2, math.isqrt(n) + 1)))
"""The product of the first 39 primes, which every prime of the flawed generator is built on (CVE-2017-15361)."""


def is_prime(n: int) -> bool:
    """By Fermat's test to base 2, which numbers that nobody chose with malice do not deceive."""
    return math.gcd(n, SMALL) == 1 and pow(2, n - 1, n) == 1


def next_prime(after: int) -> int:
    n = after | 1
    while not is_prime(n):
        n += 2
    return n


def roca_prime(near: int, power: int) -> int:
    """k·M + 65537^a mod M."""
    n = near // ROCA_M * ROCA_M + pow(65537, power, ROCA_M)
    while n % 2 == 0 or not is_prime(n):
        n += ROCA_M
    return n


def public(modulus: int, exponent: int = 65537) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()


@functools.cache
def first_prime() -> int:
    return next_prime((3 << 1022) + 0xC0FFEE)


@functools.cache
def apart(bits: int) -> rsa.RSAPublicKey:
    """Two primes of 1,024 bits, 2^``bits`` apart: Fermat's method needs about 2^(2·bits - 1028) rounds."""
    return public(first_prime() * next_prime(first_prime() + (1 << bits)))


@functools.cache
def roca() -> rsa.RSAPublicKey:
    return public(roca_prime(3 << 1022, 4711) * roca_prime(7 << 1021, 815))


@functools.cache
def with_factor(factor: int) -> rsa.RSAPublicKey:
    """2,048 bits with one small prime factor."""
    rest = next_prime(((3 << 2046) // factor) | 1) if factor > 752 else (3 << 2046) // factor | 1
    while math.gcd(rest, SMALL) != 1:
        rest += 2
    return public(factor * rest)
