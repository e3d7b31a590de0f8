"""A mesh in one process on virtual time: the real CA, agents and judgement, between clocks and a network that go wrong."""
