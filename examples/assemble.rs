//! Assembles WebAssembly text, components included: `cargo run --no-default-features --example assemble -- IN.wat OUT.wasm`.

fn main() {
    let mut paths = std::env::args_os().skip(1);
    let (Some(text), Some(binary)) = (paths.next(), paths.next()) else {
        eprintln!("usage: assemble IN.wat OUT.wasm");
        std::process::exit(2);
    };
    let assembled = wat::parse_file(text).map_err(|error| error.to_string());
    let written = assembled.and_then(|bytes| std::fs::write(binary, bytes).map_err(|error| error.to_string()));
    if let Err(error) = written {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
