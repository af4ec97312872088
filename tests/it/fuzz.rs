//! The fuzz targets' bodies on stable, briefly: noise, and edits of what is sound.

use proptest::prelude::*;

use crate::fuzz_bodies;

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn entries(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0..7u8) {
        fuzz_bodies::entry(&bytes);
        fuzz_bodies::entry(&[&[kind, 1], &bytes[..]].concat());
    }

    #[test]
    fn segments(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        fuzz_bodies::segment(&bytes);
    }

    #[test]
    fn indexes(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        fuzz_bodies::index(&bytes);
    }

    #[test]
    fn recoveries(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        fuzz_bodies::recovery(&bytes);
    }
}
