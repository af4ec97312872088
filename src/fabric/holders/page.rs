//! One page of the table: pairs of key remainder and run, packed to the same number of bits, sorted but for a short tail.
//!
//! Invariant: entries before `sorted` are in order of their remainders; `run_bits` holds every run in the page. The number of remainder bits
//! is the table's to know, since it follows from the page's place.

/// Entries that may be appended before a page is put in order again.
const TAIL: usize = 16;
/// What a page costs beside its words: its own fields and an allocator's header.
const PAGE_OVERHEAD: usize = size_of::<Page>() + 16;

/// A remainder and the run that it belongs to.
pub(super) type Entry = (u64, u32);

#[derive(Debug, Default)]
pub(super) struct Page {
    words: Box<[u64]>,
    sorted: u32,
    len: u32,
    run_bits: u32,
}

impl Page {
    /// A page with these entries, in any order.
    pub(super) fn new(mut entries: Vec<Entry>, rem_bits: u32) -> Self {
        if entries.is_empty() {
            return Self::default();
        }
        #[expect(
            clippy::stable_sort_primitive,
            reason = "all but a short tail is in order already, and only this sort profits from that"
        )]
        entries.sort();
        let widest = entries.iter().map(|(_, run)| *run).max().unwrap_or(0);
        // At least one bit, so that every run begins inside of the words.
        let run_bits = (u32::BITS - widest.leading_zeros()).max(1);
        let bits = (entries.len() + TAIL) * (rem_bits + run_bits) as usize;
        // One more word, so that an entry can be read as two words without asking.
        let words = vec![0; bits.div_ceil(64) + 1].into_boxed_slice();
        let len = u32::try_from(entries.len()).expect("pages are split long before");
        let mut page = Self { words, sorted: len, len, run_bits };
        for (at, entry) in entries.into_iter().enumerate() {
            page.write(at, entry, rem_bits);
        }
        page
    }

    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// Memory, the allocator's part included.
    pub(super) fn bytes(&self) -> usize {
        PAGE_OVERHEAD + self.words.len() * 8
    }

    /// How many bytes a page grows by at most when one entry is added.
    pub(super) fn growth(rem_bits: u32) -> usize {
        (TAIL + 1) * (rem_bits + u32::BITS) as usize / 8 + 16
    }

    pub(super) fn entries(&self, rem_bits: u32) -> impl Iterator<Item = Entry> {
        (0..self.len()).map(move |at| self.read(at, rem_bits))
    }

    /// The runs of all entries with this remainder.
    pub(super) fn find(&self, rem: u64, rem_bits: u32) -> impl Iterator<Item = u32> {
        let sorted = self.sorted as usize;
        let from = self.lower_bound(rem, rem_bits);
        let has_rem = move |at: &usize| self.remainder(*at, rem_bits) == rem;
        let ordered = (from..sorted).take_while(has_rem);
        let tail = (sorted..self.len()).filter(has_rem);
        ordered.chain(tail).map(move |at| self.read(at, rem_bits).1)
    }

    /// Appends an entry if there is room for one this wide without a rebuild.
    pub(super) fn append(&mut self, entry: Entry, rem_bits: u32) -> bool {
        let fits = entry.1.checked_shr(self.run_bits).unwrap_or(0) == 0
            && self.len() < self.sorted as usize + TAIL
            && !self.words.is_empty();
        if fits {
            self.write(self.len(), entry, rem_bits);
            self.len += 1;
        }
        fits
    }

    /// Remainders are uniform, so the place of one is nearly known.
    fn lower_bound(&self, rem: u64, rem_bits: u32) -> usize {
        let sorted = self.sorted as usize;
        let guess = (u128::from(rem) * sorted as u128) >> rem_bits;
        let mut at = usize::try_from(guess).unwrap_or(0).min(sorted);
        while at > 0 && self.remainder(at - 1, rem_bits) >= rem {
            at -= 1;
        }
        while at < sorted && self.remainder(at, rem_bits) < rem {
            at += 1;
        }
        at
    }

    /// 64 bits from a bit position on: enough for a remainder or for a run, whatever the position.
    fn bits_at(&self, bit: usize) -> u64 {
        let (word, shift) = (bit / 64, bit % 64);
        (self.words[word] >> shift) | (self.words[word + 1] << 1 << (63 - shift))
    }

    fn remainder(&self, at: usize, rem_bits: u32) -> u64 {
        self.bits_at(at * (rem_bits + self.run_bits) as usize) & ((1 << rem_bits) - 1)
    }

    #[expect(clippy::cast_possible_truncation, reason = "a run has at most 32 bits, and only those are left")]
    fn read(&self, at: usize, rem_bits: u32) -> Entry {
        let bit = at * (rem_bits + self.run_bits) as usize;
        let run = self.bits_at(bit + rem_bits as usize) & ((1 << self.run_bits) - 1);
        (self.remainder(at, rem_bits), run as u32)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the value is cut into its two words")]
    fn write(&mut self, at: usize, (rem, run): Entry, rem_bits: u32) {
        let width = rem_bits + self.run_bits;
        let bit = at * width as usize;
        let (word, shift) = (bit / 64, bit % 64);
        // The place is zero: pages are only ever written from the left.
        let value = (u128::from(rem) | (u128::from(run) << rem_bits)) << shift;
        self.words[word] |= value as u64;
        self.words[word + 1] |= (value >> 64) as u64;
    }
}
