//! What the shipped guests must print, computed in Rust: the guests' sources in `examples/guests` say the same in C and wat.
//!
//! Plain functions from inputs to the expected standard output, so that a demo or a test can say *right* and not only *answered*.

use std::collections::BTreeMap;

/// `wordfreq N`: the most frequent runs of ASCII letters, lower-cased, as `count word` lines; ties in order of the words.
#[must_use]
pub(crate) fn wordfreq(text: &[u8], wanted: usize) -> Vec<u8> {
    let mut counts: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    for word in text.split(|byte| !byte.is_ascii_alphabetic()).filter(|word| !word.is_empty()) {
        *counts.entry(word.to_ascii_lowercase()).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    // The sort is stable and the map was in order of the words.
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let line = |(word, count): &(Vec<u8>, u64)| [format!("{count} ").as_bytes(), word, b"\n"].concat();
    counts.iter().take(wanted).flat_map(line).collect()
}

/// `crc32c PATH...`: one line for each file.
#[must_use]
pub(crate) fn crc32c(files: &[(&str, &[u8])]) -> Vec<u8> {
    let line = |(path, bytes): &(&str, &[u8])| format!("{:08x}  {}  {path}\n", ::crc32c::crc32c(bytes), bytes.len());
    files.iter().map(line).collect::<String>().into_bytes()
}

/// `mandelbrot WIDTH HEIGHT MAX_ITER`: a binary PGM, in integer arithmetic with 28 fractional bits.
#[must_use]
pub(crate) fn mandelbrot(width: u32, height: u32, max_iter: u32) -> Vec<u8> {
    const ONE: i64 = 1 << 28;
    let (width, height, limit) = (i64::from(width), i64::from(height), i64::from(max_iter));
    let mut image = format!("P5\n{width} {height}\n255\n").into_bytes();
    for row in 0..height {
        let ci = -(ONE * 6 / 5) + ONE * 12 / 5 * row / height;
        for column in 0..width {
            let cr = -(ONE * 11 / 5) + ONE * 16 / 5 * column / width;
            let (mut r, mut i, mut rr, mut ii, mut n) = (0_i64, 0_i64, 0_i64, 0_i64, 0_i64);
            while n < limit && rr + ii <= 4 * ONE {
                i = ((r * i) >> 27) + ci;
                r = rr - ii + cr;
                rr = (r * r) >> 28;
                ii = (i * i) >> 28;
                n += 1;
            }
            let shade = if n == limit { 0 } else { 255 - n * 255 / limit };
            image.push(u8::try_from(shade).unwrap_or(0));
        }
    }
    image
}

/// `queens(n)`: how many ways there are to place n queens, as one line.
#[must_use]
pub(crate) fn queens(n: u32) -> Vec<u8> {
    fn place(all: u32, taken: u32, left: u32, right: u32) -> u64 {
        if taken == all {
            return 1;
        }
        let mut free = all & !(taken | left | right);
        let mut count = 0;
        while free != 0 {
            let bit = free & free.wrapping_neg();
            free ^= bit;
            count += place(all, taken | bit, (left | bit) << 1, (right | bit) >> 1);
        }
        count
    }
    format!("{}\n", place((1 << n) - 1, 0, 0, 0)).into_bytes()
}
