//! Modules that nobody wrote, and modules with a byte changed: whatever they are, each ends, within its bounds, the same on two evaluators.
//!
//! `module` is the body of the fuzz target `wasm` (`cargo +nightly fuzz run wasm`); a short run of it is a test, and a long one too, on stable:
//! `EVALMESH_FUZZ_SECONDS=600 cargo test --test it fuzz_wasm -- --ignored`.

use std::sync::LazyLock;
use std::time::Duration;

use evalmesh::error::{EvalError, LimitHit};
use evalmesh::evaluator::Job;
use evalmesh::evaluator::pool::Pool;
use evalmesh::evaluator::wasm::{WasmEvaluator, WasmLimits, inspect};
use evalmesh::reply::Reply;
use evalmesh::request::{Program, Request};
use wasm_smith::{Config, Module};

fn limits() -> WasmLimits {
    WasmLimits {
        fuel: 200_000,
        memory: 8 << 20,
        output: 1 << 16,
        time: Duration::from_secs(20),
        ..WasmLimits::default()
    }
}

static EVALUATORS: LazyLock<[WasmEvaluator; 2]> = LazyLock::new(|| {
    [(); 2].map(|()| WasmEvaluator::new(Pool::start("fuzz", 1).expect("threads"), limits()).expect("it starts"))
});

/// Within the proposals of ABI 1 when `tame`, beyond them when not.
fn config(tame: bool) -> Config {
    Config {
        max_imports: 0,
        min_exports: 1,
        export_everything: true,
        max_memory32_bytes: 64 << 20,
        max_table_elements: 2_000,
        max_funcs: 12,
        max_instructions: 200,
        memory64_enabled: !tame,
        exceptions_enabled: !tame,
        gc_enabled: !tame,
        relaxed_simd_enabled: !tame,
        threads_enabled: !tame,
        max_memories: if tame { 1 } else { 2 },
        ..Config::default()
    }
}

fn run(evaluator: &WasmEvaluator, request: &Request) -> Result<Reply, EvalError> {
    let reply = evaluator.evaluate(&Job::inline(request.clone())?)?;
    Ok(Reply { facts: evalmesh::reply::Facts { duration: Duration::ZERO, ..reply.facts }, ..reply })
}

/// Asks every export of a module, and holds two evaluators to the same outcome.
fn check(bytes: &[u8]) {
    let found = inspect(bytes, &limits());
    let exports = found.exports.iter().filter(|item| item.what.starts_with("func"));
    for export in exports.take(6) {
        let mut request = Request::new(Program::wasm(bytes.to_vec()).entry(export.name.as_str()));
        let parameters = export.what.strip_prefix("func (").and_then(|rest| rest.split(')').next()).unwrap_or_default();
        request.args = parameters.split_whitespace().enumerate().map(|(at, _)| (at * 3).to_string()).collect();
        let [first, second] = EVALUATORS.each_ref().map(|evaluator| run(evaluator, &request));
        assert_eq!(first, second, "{}", export.what);
        if found.refused.is_some() {
            // A name with a NUL cannot even be asked for.
            let refused = matches!(first, Err(EvalError::Refused(_) | EvalError::Request(_)));
            assert!(refused, "inspected as refused, and yet {first:?}");
        }
        match first {
            // The engine's own words for what it cannot do: nothing of that may be left.
            Err(EvalError::Failed(why)) => panic!("{why}"),
            Err(EvalError::Limit(LimitHit::Deadline { .. })) => panic!("200,000 units of fuel take no 20 s"),
            _ => {}
        }
    }
}

/// The first byte chooses what the others become: a module within the proposals, one beyond them, or one of the first kind with a byte changed.
pub(crate) fn module(bytes: &[u8]) {
    let Some((kind, seed)) = bytes.split_first() else { return };
    let mut unstructured = arbitrary::Unstructured::new(seed);
    let Ok(module) = Module::new(config(kind % 4 != 1), &mut unstructured) else { return };
    let mut bytes = module.to_bytes();
    if kind % 4 == 2 {
        for edit in seed.chunks_exact(4).take(2) {
            let at = usize::from(u16::from_le_bytes([edit[0], edit[1]])) % bytes.len();
            bytes[at] ^= edit[2] | 1;
        }
    }
    check(&bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::module;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn briefly(bytes in prop::collection::vec(any::<u8>(), 100..3_000)) {
            module(&bytes);
        }
    }

    #[test]
    #[ignore = "as long as EVALMESH_FUZZ_SECONDS says"]
    #[expect(clippy::disallowed_methods, reason = "a run that ends after some time")]
    fn for_long() {
        let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let seconds = variable("EVALMESH_FUZZ_SECONDS").unwrap_or(60);
        let first = variable("EVALMESH_FUZZ_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 32);
        let start = std::time::Instant::now();
        let mut seed = first;
        while start.elapsed().as_secs() < seconds {
            println!("EVALMESH_FUZZ_SEED={seed}");
            module(&stream(seed));
            seed += 1;
        }
        println!("{} modules from seed {first}", seed - first);
    }

    /// As many bytes as a module is made of, from a seed.
    fn stream(seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; 2_500];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }
}
