//! A sound disk takes every write and a well-formed message has a wire form.

use super::{Check, Phase};

pub(super) const CHECK: Check = Check {
    name: "nothing sound refuses",
    phase: Phase::Safety,
    about: "a sound disk takes every write, a node comes up on it, and every message has a wire form",
    run: |history| history.broken.clone(),
};
