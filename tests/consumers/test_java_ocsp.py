"""Java that asks the CA's responder: by the address in the certificate, by a set one, and by what is stapled."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ocsp

from handfast.certificates import load_certificates, pem_chain
from handfast.ocsp import build_request, ocsp_url
from handfast.revocation import split_pem
from handfast_ca.custody.file import load_key
from tests.ca_serve.process import RunningServe
from tests.consumers.asking import ask, files_context
from tests.consumers.lines import talking
from tests.consumers.pages import block
from tests.consumers.programs import Program, eventually, free_port, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
PAGE = "java.md"
WEB = "spiffe://test.example/web"
DEAD = "http://127.0.0.1:1/ocsp"
"""Nobody listens on port 1 of these machines."""

UNDETERMINED = "Unable to determine revocation status due to network error"
REVOKED = "Certificate has been revoked"
UNKNOWN = "Certificate's revocation status is unknown"

JUDGE = """
import java.io.FileInputStream;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.cert.*;
import java.util.*;

/** Reads lines: how to ask, whether softly, the responder or -, a stapled answer or -, the chain, now or
 *  a moment in milliseconds. Says good, or why not. */
final class Judge {
    public static void main(String[] arguments) {
        for (Scanner in = new Scanner(System.in); in.hasNextLine(); ) {
            String[] words = in.nextLine().split(" ");
            try {
                System.out.println(judged(Path.of(arguments[0]), words));
            } catch (Exception error) {
                System.out.println(error.getMessage());
            }
        }
    }

    private static String judged(Path trusted, String[] words) throws Exception {
        CertificateFactory factory = CertificateFactory.getInstance("X.509");
        List<X509Certificate> chain = new ArrayList<>();
        try (var file = new FileInputStream(words[4])) {
            factory.generateCertificates(file).forEach(one -> chain.add((X509Certificate) one));
        }
        X509Certificate root;
        try (var file = new FileInputStream(trusted.resolve("ca.crt").toFile())) {
            root = (X509Certificate) factory.generateCertificate(file);
        }
        PKIXParameters parameters = new PKIXParameters(Set.of(new TrustAnchor(root, null)));
        try (var file = new FileInputStream(trusted.resolve("crl.pem").toFile())) {
            var lists = new CollectionCertStoreParameters(factory.generateCRLs(file));
            parameters.addCertStore(CertStore.getInstance("Collection", lists));
        }
        PKIXRevocationChecker checker = Asking.valueOf(words[0]).checker(words[2].equals("-") ? null : URI.create(words[2]));
        if (words[1].equals("softly")) {
            var options = new HashSet<>(checker.getOptions());
            options.add(PKIXRevocationChecker.Option.SOFT_FAIL);
            checker.setOptions(options);
        }
        if (!words[3].equals("-")) {
            checker.setOcspResponses(Map.of(chain.get(0), Files.readAllBytes(Path.of(words[3]))));
        }
        if (!words[5].equals("now")) {
            parameters.setDate(new Date(Long.parseLong(words[5])));
        }
        parameters.addCertPathChecker(checker);
        CertPathValidator.getInstance("PKIX").validate(factory.generateCertPath(chain), parameters);
        return "good";
    }
}
"""

CALL = """
import java.net.URI;
import java.nio.file.Path;
import java.util.Scanner;

final class Call {
    public static void main(String[] arguments) {
        Client client = new Client(new Mesh(Path.of(arguments[0]), Asking.OCSP, URI.create(arguments[1])));
        for (Scanner in = new Scanner(System.in); in.hasNextLine(); ) {
            try {
                System.out.println(client.ask(URI.create(in.nextLine())));
            } catch (Exception error) {
                Throwable cause = error;
                while (cause.getCause() != null) cause = cause.getCause();
                System.out.println(cause.getMessage());
            }
        }
    }
}
"""


@pytest.fixture
def ca(tmp_path: Path) -> Iterator[RunningServe]:
    with RunningServe.initialised(tmp_path / "ca") as running_one:
        running_one.handfast("entry", "add", WEB, "--dns", "localhost", "--usage", "client,server").check()
        yield running_one


def issue(ca: RunningServe, name: str) -> Path:
    """The files of a certificate, laid out as an agent does."""
    files = ca.directory.parent / name
    ca.handfast("cert", "issue", WEB, "--out", files).check()
    (files / "..data").symlink_to(".")
    return files


def leaf_in(files: Path) -> x509.Certificate:
    return load_certificates((files / "tls.crt").read_bytes())[0]


def revoke(ca: RunningServe, files: Path) -> None:
    ca.handfast("revoke", format(leaf_in(files).serial_number, "x"), "--reason", "key-compromise").check()


def never_issued(ca: RunningServe, like: Path) -> Path:
    """What somebody made who had the issuing key: it verifies, and no ledger knows it."""
    issuer = load_certificates((ca.directory / "issuer" / "issuer.crt").read_bytes())[0]
    key = load_key(ca.directory / "issuer" / "issuer.key", None)
    model = leaf_in(like)
    builder = x509.CertificateBuilder(
        issuer_name=issuer.subject,
        subject_name=model.subject,
        public_key=model.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=model.not_valid_before_utc.replace(tzinfo=None),
        not_valid_after=(model.not_valid_after_utc - timedelta(minutes=1)).replace(tzinfo=None),
        extensions=list(model.extensions),
    )
    file = like.parent / "never-issued.pem"
    file.write_bytes(pem_chain((builder.sign(key, hashes.SHA256()), issuer)))
    return file


def answer_about(ca: RunningServe, files: Path) -> Path:
    """What the agent writes as ``ocsp.der``."""
    issuer = load_certificates((ca.directory / "issuer" / "issuer.crt").read_bytes())[0]
    asked = build_request(leaf_in(files).serial_number, issuer)
    url = ocsp_url(leaf_in(files))
    assert url is not None
    request = urllib.request.Request(url, asked, {"Content-Type": "application/ocsp-request"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        (files / "ocsp.der").write_bytes(answer.read())
    return files / "ocsp.der"


def compiled(home: Path, **server: str) -> list[str]:
    """The page's classes with those of this file. Returns the words that start a class of them."""
    for name in ("Asking", "Mesh", "Server", "Client"):
        (home / f"{name}.java").write_text(block(PAGE, f"{name}.java", server if name == "Server" else {}))
    (home / "Judge.java").write_text(JUDGE)
    (home / "Call.java").write_text(CALL)
    javac = shutil.which("javac")
    assert javac is not None, "tests/system-packages.sh all installs it"
    files = [str(home / f"{name}.java") for name in ("Asking", "Mesh", "Server", "Client", "Judge", "Call")]
    subprocess.run([javac, "-Xlint:all", "-Werror", "-d", str(home / "classes"), *files], check=True, timeout=200)
    return [str(Path(javac).with_name("java")), "-cp", str(home / "classes")]


async def test_java_asks_where_the_certificate_says_or_where_it_is_told(tmp_path: Path, ca: RunningServe) -> None:
    """D9: good is taken, revoked and unknown are refused; the chain holds otherwise."""
    good, revoked = issue(ca, "good"), issue(ca, "revoked")
    forged = never_issued(ca, good)
    revoke(ca, revoked)
    told = f"http://{ca.http}/ocsp"
    with talking([*compiled(tmp_path), "Judge", str(good)]) as judge:
        for responder in ("-", told):
            assert await judge.ask(f"OCSP hard {responder} - {good / 'tls.crt'} now") == "good"
            assert (await judge.ask(f"OCSP hard {responder} - {revoked / 'tls.crt'} now")).startswith(REVOKED)
            assert await judge.ask(f"OCSP hard {responder} - {forged} now") == UNKNOWN
            # What the page says of falling back: the lists know nothing of a certificate that was never issued.
            assert await judge.ask(f"OCSP_THEN_LISTS hard {responder} - {good / 'tls.crt'} now") == "good"
            assert (await judge.ask(f"OCSP_THEN_LISTS hard {responder} - {revoked / 'tls.crt'} now")).startswith(
                REVOKED
            )
            assert await judge.ask(f"OCSP_THEN_LISTS hard {responder} - {forged} now") == "good"
        asked_elsewhere = await judge.ask(f"OCSP hard {DEAD} - {good / 'tls.crt'} now")
        assert asked_elsewhere == UNDETERMINED, "the set responder goes before the certificate's"


async def test_without_an_answer_nobody_is_accepted_unless_somebody_says_softly(
    tmp_path: Path, ca: RunningServe
) -> None:
    """D2: fail closed. SOFT_FAIL is why the page forbids it: it takes the unknown, and the revoked once nobody answers."""
    good, revoked = issue(ca, "good"), issue(ca, "revoked")
    forged = never_issued(ca, good)
    revoke(ca, revoked)
    with talking([*compiled(tmp_path), "Judge", str(good)]) as judge:
        assert (await judge.ask(f"OCSP softly - - {revoked / 'tls.crt'} now")).startswith(REVOKED)
        assert await judge.ask(f"OCSP softly - - {forged} now") == "good"
        assert ca.stop() == 0
        for files in (good, revoked):
            assert await judge.ask(f"OCSP hard - - {files / 'tls.crt'} now") == UNDETERMINED
            assert await judge.ask(f"OCSP softly - - {files / 'tls.crt'} now") == "good"
        # The lists of `good` are those of its issuance, from before the revocation.
        assert await judge.ask(f"OCSP_THEN_LISTS hard - - {good / 'tls.crt'} now") == "good"


async def test_a_stapled_answer_stands_for_the_responder(tmp_path: Path, ca: RunningServe) -> None:
    """D9, D10: about this certificate; one about another is nothing; one that says revoked is a refusal."""
    good, revoked, other = issue(ca, "good"), issue(ca, "revoked"), issue(ca, "other")
    fresh, foreign = answer_about(ca, good), answer_about(ca, other)
    revoke(ca, revoked)
    bad = answer_about(ca, revoked)
    broken = tmp_path / "broken.der"
    broken.write_bytes(fresh.read_bytes()[:-1] + bytes([fresh.read_bytes()[-1] ^ 1]))
    assert ca.stop() == 0
    with talking([*compiled(tmp_path), "Judge", str(good)]) as judge:
        assert await judge.ask(f"OCSP hard - {fresh} {good / 'tls.crt'} now") == "good"
        assert (await judge.ask(f"OCSP hard - {bad} {revoked / 'tls.crt'} now")).startswith(REVOKED)
        for useless in (foreign, broken, "-"):
            assert await judge.ask(f"OCSP hard - {useless} {good / 'tls.crt'} now") != "good"


def moment(when: datetime, *, minutes: int) -> str:
    return str(int((when + timedelta(minutes=minutes)).timestamp()) * 1000)


async def test_java_takes_what_ended_a_quarter_of_an_hour_ago(tmp_path: Path, ca: RunningServe) -> None:
    """D2: its allowance for clocks. That of OCSP can be set, that of lists cannot."""
    good = issue(ca, "good")
    staple = answer_about(ca, good)
    ended = ocsp.load_der_ocsp_response(staple.read_bytes()).next_update_utc
    assert ended is not None
    lists = [x509.load_der_x509_crl(one).next_update_utc for one in split_pem((good / "crl.pem").read_bytes())]
    list_ended = min(one for one in lists if one is not None)
    java = compiled(tmp_path)
    stapled = f"OCSP hard - {staple} {good / 'tls.crt'}"
    listed = f"LISTS hard - - {good / 'tls.crt'}"
    with talking([*java, "Judge", str(good)]) as judge:
        assert await judge.ask(f"{stapled} {moment(ended, minutes=14)}") == "good"
        assert "out-of-date" in await judge.ask(f"{stapled} {moment(ended, minutes=16)}")
        assert await judge.ask(f"{listed} {moment(list_ended, minutes=14)}") == "good"
        assert await judge.ask(f"{listed} {moment(list_ended, minutes=16)}") == "Could not determine revocation status"
    with talking([java[0], "-Dcom.sun.security.ocsp.clockSkew=60", *java[1:], "Judge", str(good)]) as judge:
        assert await judge.ask(f"{stapled} {moment(ended, minutes=0)}") == "good"
        assert "out-of-date" in await judge.ask(f"{stapled} {moment(ended, minutes=2)}")


@contextlib.asynccontextmanager
async def serving(home: Path, java: Sequence[str], port: int, *options: str) -> AsyncIterator[Program]:
    """The page's server."""
    async with running([java[0], *options, *java[1:], "Server"], home, [port]) as program:
        yield program


async def test_a_server_asks_about_each_client(tmp_path: Path, ca: RunningServe) -> None:
    """C6: revoked is refused with the next handshake; so is everybody when nobody answers."""
    port, web, client, doomed = free_port(), issue(ca, "web"), issue(ca, "client"), issue(ca, "doomed")
    asking = f'Path.of("{web}"), Asking.OCSP, null'
    java = compiled(tmp_path, **{'Path.of("/run/handfast/web")': asking, "8443": str(port)})
    async with serving(tmp_path, java, port):
        assert (await asyncio.to_thread(ask, port, files_context(client))).good
        assert (await asyncio.to_thread(ask, port, files_context(doomed))).good
        revoke(ca, doomed)
        assert (await asyncio.to_thread(ask, port, files_context(doomed))).status == 0
        assert (await asyncio.to_thread(ask, port, files_context(client))).good
        assert ca.stop() == 0
        assert (await asyncio.to_thread(ask, port, files_context(client))).status == 0


STAPLES = ("-Djdk.tls.server.enableStatusRequestExtension=true", "-Djdk.tls.stapling.cacheLifetime=1")


async def test_a_server_staples_and_its_clients_need_no_responder(tmp_path: Path, ca: RunningServe) -> None:
    """C6: a revocation of the server shows when the answer that it keeps has ended, here after a second."""
    port, web, client = free_port(), issue(ca, "web"), issue(ca, "client")
    java = compiled(tmp_path, **{"/run/handfast/web": str(web), "8443": str(port)})

    def call() -> str:
        """A process of its own: it resumes no session, and its connection is new."""
        command = [*java, "Call", str(client), DEAD]
        url = f"https://localhost:{port}/\n"
        return subprocess.run(command, input=url, capture_output=True, text=True, timeout=60, check=True).stdout

    async with serving(tmp_path, java, port):
        assert await asyncio.to_thread(call) == "Connection refused\n", "nothing is stapled unless it is switched on"
    async with serving(tmp_path, java, port, *STAPLES) as program:
        assert await asyncio.to_thread(call) == "seen\n"
        revoke(ca, web)
        await eventually(lambda: call().startswith(REVOKED), program.said)
