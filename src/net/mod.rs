//! libp2p lanes.
