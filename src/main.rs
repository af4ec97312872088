//! The `evalmesh` command.

fn main() {}
