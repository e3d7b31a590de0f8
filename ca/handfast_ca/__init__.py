"""The certificate authority of Handfast: issues, renews and revokes the identities of a service mesh."""
