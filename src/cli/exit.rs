//! Every exit code of `evalmesh`, documented once. Scripts may rely on them; a code never changes its meaning.

/// All went well; for `eval`, the program ended with status 0.
pub const OK: u8 = 0;
/// Something failed that has no code of its own.
pub const FAILED: u8 = 1;
/// The command line is wrong (clap's code).
pub const USAGE: u8 = 2;
/// The program answered, but with a status other than 0, or it trapped. The reply is on stdout all the same.
pub const PROGRAM_STATUS: u8 = 3;
/// A module or input file cannot be read.
pub const INPUT: u8 = 10;
/// The request or its program is refused: malformed module, unknown import, capability not granted.
pub const REFUSED: u8 = 11;
/// A limit was reached: time, fuel, memory, output.
pub const LIMIT: u8 = 12;
/// Nobody holds an answer, and none was to be computed.
pub const NOT_HELD: u8 = 13;
/// A queue of the node is full.
pub const BUSY: u8 = 14;
/// No node runs on the data directory, or it stopped answering.
pub const NO_NODE: u8 = 15;
/// The data directory cannot be used: not a directory, no permission, another node's, a newer format.
pub const DATA_DIR: u8 = 20;
/// Another process has the data directory open.
pub const LOCKED: u8 = 21;
/// The listen address is in use or cannot be bound.
pub const ADDRESS: u8 = 22;
/// A peer named on the command line has another fleet secret.
pub const OTHER_FLEET: u8 = 23;
/// The fleet secret's file is missing or malformed.
pub const SECRET: u8 = 24;
/// The ledger refused a record (disk full, disk failed).
pub const LEDGER: u8 = 25;
/// The ledger is damaged (`ledger verify`, or an entry that was asked for is lost).
pub const DAMAGED: u8 = 26;
/// An answer of the demo was wrong.
pub const WRONG_ANSWER: u8 = 30;
/// `sim`: something wrong happened in a simulation.
pub const SIM_UNSAFE: u8 = 40;
/// `sim`: something right did not happen in the end.
pub const SIM_STUCK: u8 = 41;
/// `sim`: the same scenario and seed gave two different runs.
pub const SIM_DIFFERS: u8 = 42;
/// `sim compare`: a figure is worse than the baseline.
pub const SIM_WORSE: u8 = 43;
/// `sim`: a scenario or baseline is unknown or malformed.
pub const SCENARIO: u8 = 44;
/// Ctrl-C came a second time before the node had stopped (128 + SIGINT, as shells have it).
pub const INTERRUPTED: u8 = 130;

/// The table for `--help`.
pub const HELP: &str = "\
Exit codes:
  0 ok   1 failed   2 usage   3 program ended with another status than 0, or trapped
  10 file unreadable   11 program refused   12 limit reached   13 nobody holds it   14 busy   15 no node
  20 data directory   21 data directory in use   22 address in use   23 peer of another fleet
  24 fleet secret file   25 ledger refused   26 ledger damaged   30 wrong answer (demo)
  sim: 40 something wrong happened   41 something right did not   42 a run differs from itself
  43 worse than the baseline   44 no such scenario, or malformed
  130 stopped by a second Ctrl-C";
