//! Paths that go dark, lose packets, or flap: through a relay between gateways and a PoP.
