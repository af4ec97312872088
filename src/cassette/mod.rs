//! The cassette.
