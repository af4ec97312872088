//! See `tests/it` for the node; these hold the cassette itself.
