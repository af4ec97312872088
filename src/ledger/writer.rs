//! The writer: a synchronous state machine without thread, clock or randomness.
//!
//! `append` gives an entry its sequence number and buffers it; `write_out` writes what is buffered; `commit` also makes it durable. Readers see
//! an entry once it is written. Order on disk: blobs and their names are durable first, then frames; a full segment is durable before the
//! next one exists. After the first failure nothing more is written: what is on disk is not known until it is opened again.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::id::{EpochId, NodeId};
use crate::limits::MAX_OUTPUT_FILES;
use crate::record::Record;
use crate::reply::BlobRef;

use super::blobs::{self, Blob};
use super::draft::Draft;
use super::entry::{Entry, Parent};
use super::error::{LedgerError, OpenError, Recovery};
use super::frame::{self, ALIGN, FORMAT, HEADER, Header, Parts, Salt};
use super::limits::{
    BUFFER_BYTES, HASTEN_STEP, INLINE_PAYLOAD, INLINE_TOTAL, LEAST_ROOM, LITTLE, MAX_PAYLOADS, PAGE, ROOM_AFTER_SYNCS,
    ROOM_AHEAD, ROOM_STEP, RUN_BYTES, RUN_ENTRIES, SEGMENT_BYTES, SPARE_AFTER,
};
use super::reader::LedgerReader;
use super::recovery::{Recovered, recover};
use super::room::{Made, Room, SPARE, Stop, ZEROS};
use super::row::Row;
use super::run::Segment;
use super::seal::IndexFile;
use super::state::{SEGMENTS, Shared, index_path, segment_path};
use super::storage::{Storage, StorageFile};

/// What an opening for writing needs to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// Whose ledger it is.
    pub node: NodeId,
    /// The name of the new epoch: 128 fresh random bits.
    pub epoch: EpochId,
    /// The time, in microseconds since 1970.
    pub now: u64,
    /// When a segment is full; see [`SEGMENT_BYTES`].
    pub segment_bytes: u64,
}

impl Opening {
    /// An opening with the usual segment size.
    #[must_use]
    pub fn new(node: NodeId, epoch: EpochId, now: u64) -> Self {
        Self { node, epoch, now, segment_bytes: SEGMENT_BYTES }
    }
}

/// The one writer of a ledger.
pub struct Ledger {
    pub(super) shared: Arc<Shared>,
    segment_bytes: u64,
    /// What is written to; `None` before the first segment exists.
    active: Option<Active>,
    /// Where the next frame goes, buffered ones counted in.
    tip: Option<Tip>,
    /// The sequence number of the next entry.
    next: u64,
    pending: Pending,
    /// Whether something was written since the last sync.
    unsynced: bool,
    spare: Spare,
    /// Whether the disk has bandwidth to spare, as far as it was tried.
    fast: bool,
    poisoned: Option<String>,
}

/// The newest segment.
struct Active {
    segment: Arc<Segment>,
    file: Arc<dyn StorageFile>,
    index: IndexFile,
    /// How long the file is; behind the last frame it is zero.
    room: u64,
    /// Syncs, and bytes written, since it was opened.
    syncs: u32,
    written: u64,
    /// Up to where the disk has begun to write.
    hastened: u64,
}

#[derive(Default)]
enum Spare {
    #[default]
    None,
    Asked(Stop),
    /// The disk is too slow for it, as long as this segment lasts.
    Declined,
    Ready(Arc<dyn StorageFile>),
}

impl Spare {
    /// A new segment begins: its spare may be tried again.
    fn forgive(&mut self) {
        if matches!(self, Self::Declined) {
            *self = Self::None;
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Tip {
    first: u64,
    offset: u64,
}

impl Active {
    fn wants_room(&self) -> bool {
        self.syncs >= ROOM_AFTER_SYNCS
    }

    /// Whether a sync has so little to write that metadata are what it takes time for.
    fn writes_little(&self) -> bool {
        self.written / u64::from(self.syncs.max(1)) <= LITTLE
    }

    /// Lets the disk begin with what no sync has asked for yet, up to the last whole page: that one is not written to any more.
    fn hasten(&mut self, end: u64) {
        let end = end - end % PAGE;
        if end.saturating_sub(self.hastened) >= HASTEN_STEP {
            self.file.hasten(self.hastened, end - self.hastened);
            self.hastened = end;
        }
    }

    /// Writes a chunk; if it leaves the room that was made, makes more behind it, so that most syncs have no metadata to write.
    fn write(&mut self, chunk: &Chunk, segment_bytes: u64, rewards_room: bool, fast: bool) -> io::Result<()> {
        let end = chunk.offset + chunk.buffers.bytes.len() as u64;
        self.file.write_at(&chunk.buffers.bytes, chunk.offset)?;
        self.written += chunk.buffers.bytes.len() as u64;
        self.hasten(end);
        if end <= self.room {
            return Ok(());
        }
        self.room = end;
        let pays = self.wants_room() && (fast || self.writes_little());
        if rewards_room && pays && end < segment_bytes {
            let step = (chunk.buffers.bytes.len() as u64 * ROOM_AHEAD).clamp(LEAST_ROOM, ROOM_STEP as u64);
            let room = usize::try_from((segment_bytes - end).min(step)).expect("at most a step");
            self.file.write_at(&ZEROS[..room], end)?;
            self.room = end + room as u64;
        }
        Ok(())
    }
}

/// What is appended but not written.
#[derive(Default)]
struct Pending {
    chunks: Vec<Chunk>,
    blobs: Vec<Blob>,
    bytes: usize,
    /// Empty buffers that were used before, for the next chunk.
    spent: Buffers,
}

/// Bytes that go into one segment, and what they are.
struct Chunk {
    first: u64,
    /// Whether the segment is still to be made.
    fresh: bool,
    offset: u64,
    buffers: Buffers,
}

#[derive(Default)]
struct Buffers {
    bytes: Vec<u8>,
    entries: Vec<Waiting>,
    /// Fingerprints of inline payloads.
    names: Vec<(u64, u64)>,
}

struct Waiting {
    row: Row,
    /// Where its frame ends.
    end: u32,
    opens: Option<EpochId>,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger")
            .field("node", &self.shared.node)
            .field("next", &self.next)
            .field("durable", &self.shared.durable())
            .field("poisoned", &self.poisoned)
            .finish_non_exhaustive()
    }
}

impl Ledger {
    /// Opens a ledger for writing, made if there is none: recovers it and starts a new epoch, which is durable when this returns.
    pub fn open(storage: Arc<dyn Storage>, opening: &Opening) -> Result<(Self, Recovery), OpenError> {
        let Recovered { state, report, index, end, room } = recover(&*storage, opening.node)?;
        if state.epochs.iter().any(|epoch| epoch.id == opening.epoch) {
            return Err(OpenError::EpochReused(opening.epoch));
        }
        let active = state.segments.last().cloned().and_then(|segment| {
            let file = segment.file.clone()?;
            Some(Active { segment, file, index, room, syncs: 0, written: 0, hastened: 0 })
        });
        let tip = active.as_ref().map(|active| Tip {
            first: active.segment.first,
            // Behind the remains of a frame that was kept without its payloads nothing is aligned: begin a new segment.
            offset: if end % ALIGN as u64 == 0 { end } else { u64::MAX },
        });
        let next = state.length();
        let mut ledger = Self {
            segment_bytes: opening.segment_bytes.min(u64::from(u32::MAX / 2)),
            active,
            tip,
            next,
            pending: Pending::default(),
            unsynced: true,
            spare: Spare::None,
            fast: false,
            poisoned: None,
            shared: Arc::new(Shared::new(storage, opening.node, state)),
        };
        match ledger.begin(opening) {
            Ok(()) => Ok((ledger, report)),
            Err(error) => {
                if !report.is_clean() {
                    tracing::warn!(
                        ?report,
                        "the ledger was mended before opening it failed: the next opening will not say so again"
                    );
                }
                Err(error)
            }
        }
    }

    /// Starts the epoch of this opening.
    fn begin(&mut self, opening: &Opening) -> Result<(), OpenError> {
        let shared = self.shared.clone();
        let failed = |(path, source): Failure| OpenError::io(shared.storage.locate(&path), source);
        if !shared.read().open.rows.is_empty() {
            // What was recovered is sealed by itself: it may be damaged, and what follows is not.
            self.sync().and_then(|()| self.seal()).map_err(failed)?;
            self.unsynced = true;
        }
        let parent = self.parent().map_err(|error| OpenError::io(".".into(), io::Error::other(error)))?;
        let Opening { node, epoch, now: opened_at, .. } = *opening;
        let entry = Entry::Epoch { epoch, start: self.next, parent, node, opened_at };
        let draft = Draft::new(entry).expect("an epoch entry is short");
        self.push(&draft, &[], false);
        self.try_commit().and_then(|()| self.seal()).map_err(failed)
    }

    /// What the epoch before this opening's was.
    fn parent(&self) -> Result<Option<Parent>, super::error::ReadError> {
        let state = self.shared.read();
        let Some(epoch) = state.epochs.last() else { return Ok(None) };
        let (epoch, start, mut length) = (epoch.id, epoch.start, epoch.tree.len());
        let mut root = self.shared.root(&state, state.epochs.len() - 1, length)?;
        if root.is_none() {
            // Its leaves cannot be read any more: nothing of it stays valid.
            (length, root) = (0, Some(crate::proof::empty_root()));
        }
        Ok(root.map(|root| Parent { epoch, start, length, root }))
    }

    /// A handle for reading. Only for use by others; it sees what is written.
    #[must_use]
    pub fn reader(&self) -> LedgerReader {
        LedgerReader { shared: self.shared.clone() }
    }

    /// The sequence number of the next entry.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.next
    }

    /// Appends an entry with its payloads and returns its sequence number. It is buffered; `write_out` and `commit` say when it is more.
    /// An entry that is not `announce`d counts as skipped in the announcement log.
    pub fn append(&mut self, entry: &Entry, payloads: &[Blob], announce: bool) -> Result<u64, LedgerError> {
        self.check()?;
        self.append_draft(&Draft::new(entry.clone())?, payloads, announce)
    }

    /// As [`Self::append`], for an entry that is encoded and hashed already.
    pub fn append_draft(&mut self, draft: &Draft, payloads: &[Blob], announce: bool) -> Result<u64, LedgerError> {
        self.check()?;
        check_payloads(draft, payloads)?;
        if payloads.len() > MAX_PAYLOADS {
            let (what, found) = ("an entry's number of payloads", payloads.len() as u64);
            return Err(LedgerError::TooLarge { what, found, bound: MAX_PAYLOADS as u64 });
        }
        if self.pending.bytes > BUFFER_BYTES {
            self.write_out()?;
        }
        Ok(self.push(draft, payloads, announce))
    }

    /// Writes everything that is buffered; returns how many entries are written now. They survive a crash of the process, not of the machine.
    pub fn write_out(&mut self) -> Result<u64, LedgerError> {
        self.check()?;
        self.try_write().map_err(|failure| self.poison(failure))?;
        Ok(self.next)
    }

    /// Writes everything that is buffered and makes it durable; returns how many entries are durable now.
    pub fn commit(&mut self) -> Result<u64, LedgerError> {
        self.check()?;
        self.try_commit().map_err(|failure| self.poison(failure))?;
        Ok(self.next)
    }

    /// Makes everything durable and seals it, so that the next opening finds the ledger as it was left without reading it.
    pub fn close(mut self) -> Result<u64, LedgerError> {
        self.commit()?;
        self.seal().and_then(|()| self.trim()).map_err(|failure| self.poison(failure))?;
        match self.shared.storage.remove(SPARE) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.poison((SPARE.to_owned(), error))),
            _ => Ok(self.next),
        }
    }

    /// Work for a helper thread that makes later commits cheaper, if there is any now. Hand what comes of it to [`Self::accept`].
    pub fn wants_room(&mut self) -> Option<Room> {
        let active = self.active.as_ref()?;
        let storage = self.shared.storage.clone();
        let wanted = active.wants_room() && self.tip?.offset >= self.segment_bytes / SPARE_AFTER;
        if self.poisoned.is_some() || !wanted || !storage.rewards_room() || !matches!(self.spare, Spare::None) {
            return None;
        }
        let (stop, only_if_fast) = (Stop::default(), !active.writes_little());
        self.spare = Spare::Asked(stop.clone());
        Some(Room { storage, end: self.segment_bytes, stop, only_if_fast })
    }

    /// Lets a helper thread end soon; what it made so far is not used.
    pub fn stop_room(&mut self) {
        if let Spare::Asked(stop) = &self.spare {
            stop.stop();
        }
    }

    /// Takes what a helper thread made.
    pub fn accept(&mut self, made: Made) {
        match made.spare {
            Ok(Some(file)) => {
                self.fast |= made.tried;
                self.spare = Spare::Ready(file);
            }
            Ok(None) => {
                self.fast = false;
                self.spare = Spare::Declined;
            }
            Err(error) => tracing::warn!(%error, "no room could be made ahead; commits will be slower"),
        }
    }

    /// A failure of the disk at a path.
    pub(crate) fn io_error(&self, path: &str, source: io::Error) -> LedgerError {
        LedgerError::Io { path: self.shared.storage.locate(path), source: Arc::new(source) }
    }

    fn check(&self) -> Result<(), LedgerError> {
        self.poisoned.as_ref().map_or(Ok(()), |cause| Err(LedgerError::Poisoned { cause: cause.clone() }))
    }

    fn poison(&mut self, (path, source): Failure) -> LedgerError {
        let error = self.io_error(&path, source);
        self.poisoned = Some(error.to_string());
        self.pending = Pending::default();
        error
    }

    /// Buffers an entry that was checked.
    fn push(&mut self, draft: &Draft, payloads: &[Blob], announce: bool) -> u64 {
        let (entry, body) = (draft.entry(), draft.body());
        let seq = self.next;
        let tip = self.place(seq);
        let chunk = self.pending.chunks.last_mut().expect("placing makes one");
        let (inline, filed) = split(payloads);
        self.pending.bytes += filed.iter().map(|blob| blob.bytes().map_or(0, Bytes::len)).sum::<usize>();
        self.pending.blobs.extend(filed.into_iter().cloned());
        let kind = entry.kind();
        let parts = Parts { seq, kind, announced: announce, body, payloads: &inline };
        let len = frame::encode(&mut chunk.buffers.bytes, Salt::new(self.shared.node, tip.first), tip.offset, &parts);
        self.pending.bytes += len;
        let narrow = |n: u64| u32::try_from(n).expect("a segment is shorter than 4 GiB");
        let end = tip.offset + len as u64;
        let row = draft.row(narrow(tip.offset), announce);
        let opens = match entry {
            Entry::Epoch { epoch, .. } => Some(*epoch),
            _ => None,
        };
        chunk.buffers.names.extend(inline.iter().map(|(name, _)| (name.digest.fingerprint(), seq)));
        chunk.buffers.entries.push(Waiting { row, end: narrow(end), opens });
        self.tip = Some(Tip { offset: end, ..tip });
        self.next += 1;
        seq
    }

    /// Where the next frame goes: in the newest segment, or in a new one if that is full.
    fn place(&mut self, seq: u64) -> Tip {
        let (tip, fresh) = match self.tip {
            Some(tip) if tip.offset < self.segment_bytes => (tip, false),
            _ => (Tip { first: seq, offset: HEADER as u64 }, true),
        };
        if fresh || self.pending.chunks.is_empty() {
            let buffers = std::mem::take(&mut self.pending.spent);
            self.pending.chunks.push(Chunk { first: tip.first, fresh, offset: tip.offset, buffers });
        }
        tip
    }

    fn try_commit(&mut self) -> Result<(), Failure> {
        self.try_write()?;
        self.sync()
    }

    /// Makes everything that is written durable.
    fn sync(&mut self) -> Result<(), Failure> {
        if self.unsynced
            && let Some(active) = &mut self.active
        {
            active.file.sync().map_err(|source| (segment_path(active.segment.first), source))?;
            active.syncs = active.syncs.saturating_add(1);
            active.hastened = self.tip.map_or(0, |tip| tip.offset);
            self.unsynced = false;
        }
        self.shared.set_durable(self.next);
        Ok(())
    }

    fn try_write(&mut self) -> Result<(), Failure> {
        // The spent buffer stays: to grow a new one for every commit costs more than what goes into it.
        let Pending { chunks, blobs, bytes, .. } = &mut self.pending;
        let (chunks, blobs) = (std::mem::take(chunks), std::mem::take(blobs));
        *bytes = 0;
        for blob in &blobs {
            let stored = blobs::store(&*self.shared.storage, blob);
            stored.map_err(|source| (blobs::path(&blob.name().digest), source))?;
        }
        let rewards_room = self.shared.storage.rewards_room();
        for mut chunk in chunks {
            let path = segment_path(chunk.first);
            if chunk.fresh {
                self.finish()?;
                if let Some(full) = &self.active {
                    full.file.settle();
                }
                let active = self.roll(chunk.first, &path).map_err(|source| (path.clone(), source))?;
                self.shared.write().segments.push(active.segment.clone());
                self.active = Some(active);
            }
            let active = self.active.as_mut().expect("the first chunk of a ledger makes a segment");
            self.unsynced = true;
            active.write(&chunk, self.segment_bytes, rewards_room, self.fast).map_err(|source| (path, source))?;
            self.publish(&mut chunk.buffers);
            chunk.buffers.bytes.clear();
            if chunk.buffers.bytes.capacity() <= 2 * BUFFER_BYTES {
                self.pending.spent = chunk.buffers;
            }
        }
        if self.is_run_full() {
            self.sync()?;
            self.seal()?;
        }
        Ok(())
    }

    fn is_run_full(&self) -> bool {
        let state = self.shared.read();
        let open = &state.open;
        let bytes = open.rows.first().map_or(0, |row| u64::from(open.end.saturating_sub(row.offset)));
        bytes >= RUN_BYTES || open.rows.len() >= RUN_ENTRIES
    }

    /// Makes the open run a sealed one. Everything written is durable.
    fn seal(&mut self) -> Result<(), Failure> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let at = |source| (index_path(active.segment.first), source);
        if self.shared.read().open.rows.len() < RUN_ENTRIES / 8 {
            // Short ones are put together; until that is done nobody looks.
            let mut state = self.shared.write();
            if !state.open.rows.is_empty() {
                active.index.absorb(&mut state, &active.segment).map_err(at)?;
                active.index.seal(&*self.shared.storage, &mut state, &active.segment).map_err(at)?;
            }
            return Ok(());
        }
        loop {
            let run = {
                let state = self.shared.read();
                if state.open.rows.is_empty() {
                    return Ok(());
                }
                active.index.next_run(&*self.shared.storage, &state, &active.segment).map_err(at)?
            };
            self.shared.write().install(run);
        }
    }

    /// The newest segment is full: makes it durable, so that only the newest one ever has a torn end, and seals it.
    fn finish(&mut self) -> Result<(), Failure> {
        let Some(active) = &self.active else { return Ok(()) };
        active.file.sync().map_err(|source| (segment_path(active.segment.first), source))?;
        self.seal()?;
        self.trim()
    }

    /// Gives back what of the room in the newest segment is not used.
    fn trim(&mut self) -> Result<(), Failure> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let end = u64::from(self.shared.read().open.end);
        if active.room > end {
            active.file.set_len(end).map_err(|source| (segment_path(active.segment.first), source))?;
            active.room = end;
        }
        Ok(())
    }

    /// Makes a new segment.
    fn roll(&mut self, first: u64, path: &str) -> io::Result<Active> {
        let storage = &self.shared.storage;
        let header = Header { format: FORMAT, node: self.shared.node, first }.encode();
        match std::mem::take(&mut self.spare) {
            Spare::Ready(file) => {
                file.write_at(&header, 0)?;
                file.sync()?;
                storage.rename(SPARE, path)?;
            }
            other => {
                self.spare = other;
                let file = storage.create_new(path)?;
                file.write_at(&header, 0)?;
                file.sync()?;
            }
        }
        let file = storage.open_lasting(path)?;
        let room = file.len()?;
        storage.sync_dir(SEGMENTS)?;
        let segment = Segment::new(self.shared.node, first, Some(file.clone()));
        self.spare.forgive();
        Ok(Active { segment, file, index: IndexFile::default(), room, syncs: 0, written: 0, hastened: 0 })
    }

    /// Shows what was written to the readers.
    fn publish(&self, written: &mut Buffers) {
        let mut state = self.shared.write();
        state.open.names.append(&mut written.names);
        for Waiting { row, end, opens } in written.entries.drain(..) {
            state.push(row, end, opens);
        }
    }
}

/// What failed, and where.
type Failure = (String, io::Error);

/// A record is only taken with all of its payloads: a node announces only what it can serve.
fn check_payloads(draft: &Draft, payloads: &[Blob]) -> Result<(), LedgerError> {
    let given = |record: &Record| {
        if record.blobs().eq(payloads.iter().map(Blob::name)) {
            return Ok(());
        }
        let given: BTreeSet<_> = payloads.iter().map(Blob::name).collect();
        match record.blobs().position(|blob| !given.contains(&blob)) {
            Some(position) => Err(LedgerError::Payload { position }),
            None => Ok(()),
        }
    };
    match draft.entry() {
        Entry::Epoch { .. } => Err(LedgerError::EpochEntry),
        Entry::Observed(record) if !has_form(record) => Err(LedgerError::Files),
        _ => draft.record().map_or(Ok(()), given),
    }
}

/// Whether `Record::decode` would take this record's bytes again.
fn has_form(record: &Record) -> bool {
    record.files.len() <= MAX_OUTPUT_FILES && record.files.windows(2).all(|pair| pair[0].path < pair[1].path)
}

/// Which payloads go into the frame and which get files; equal ones are kept once.
fn split(payloads: &[Blob]) -> (Vec<(BlobRef, &Bytes)>, Vec<&Blob>) {
    let (mut inline, mut filed) = (Vec::new(), Vec::new());
    let mut seen = BTreeSet::new();
    let mut total = 0;
    let many = payloads.len() > 1;
    for blob in payloads.iter().filter(|blob| !many || seen.insert(blob.name())) {
        match blob.bytes() {
            Some(bytes) if bytes.len() <= INLINE_PAYLOAD && total + bytes.len() <= INLINE_TOTAL => {
                total += bytes.len();
                inline.push((blob.name(), bytes));
            }
            _ => filed.push(blob),
        }
    }
    (inline, filed)
}
