//! The allocator of the `evalmesh` program, and of whatever is measured as that program: what one thread allocates and another frees is most of
//! what a record costs the system's allocator.
//!
//! Memory that nobody uses goes back to the system after half a minute instead of a second: fresh pages are cleared one by one when they are
//! touched, and a node at work, or a simulation after another, touches the same again before long.

use std::ffi::{c_int, c_long};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay`, in milliseconds; its number in `mimalloc.h` is the same in versions 2 and 3.
const PURGE_DELAY: c_int = 15;
/// How long unused memory is kept, in milliseconds.
const KEPT_FOR: c_long = 30_000;
/// What the allocator does unless the environment (`MIMALLOC_PURGE_DELAY`) says otherwise, in versions 2 and 3.
const DEFAULTS: [c_long; 2] = [10, 1000];

#[expect(unsafe_code, reason = "the allocator's options have no safe interface")]
unsafe extern "C" {
    fn mi_option_get(option: c_int) -> c_long;
    fn mi_option_set(option: c_int, value: c_long);
}

/// Keeps unused memory for half a minute, unless the environment says how long. To be called before anything is worth keeping.
#[expect(unsafe_code, reason = "the allocator's options have no safe interface")]
pub(crate) fn keep_memory() {
    // SAFETY: both only touch the option's own value, which the allocator expects to change at any time. If that number became some other
    // option's, its value would hardly be one of the defaults, and nothing would be set.
    unsafe {
        if DEFAULTS.contains(&mi_option_get(PURGE_DELAY)) {
            mi_option_set(PURGE_DELAY, KEPT_FOR);
        }
    }
}
