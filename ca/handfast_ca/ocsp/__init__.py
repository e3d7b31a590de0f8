"""The OCSP responder: what it reads and says, who signs for it, and what it answers."""
