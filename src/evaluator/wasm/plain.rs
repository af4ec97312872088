//! Plain modules without imports: filters of the alloc/run ABI, and single calls with numbers.
//!
//! A filter's `alloc(len)` says where the input goes, then `run(ptr, len)` returns the result's place as `ptr << 32 | len`. A call's arguments
//! are parsed by the parameter's type and each result becomes one line: integers signed, floats as the shortest decimal without exponent that
//! reads back as the same float, every NaN as `NaN`. Invariant: a place outside the guest's memory is the guest's trap, never the host's.

use std::fmt::Write as _;

use bytes::Bytes;
use wasmtime::{Error, FuncType, Instance, Result, Store, Val, ValType};

use super::program::{BytesCall, BytesEntry};
use super::store::{State, Stop};
use crate::error::{LimitHit, Refusal};
use crate::reply::TrapCode;

/// The reply of a filter that lets its input pass.
pub(in crate::evaluator) const ACCEPTED: &[u8] = b"1\n";
/// The reply of one that does not.
pub(in crate::evaluator) const REJECTED: &[u8] = b"0\n";

/// Gives a function of bytes its input. A verdict becomes `1` or `0` and a newline.
pub(super) fn bytes(
    store: &mut Store<State>,
    instance: Instance,
    call: &BytesCall,
    input: &[u8],
    bound: u64,
) -> Result<Bytes> {
    let broken = |why| Error::new(Stop::Trap(TrapCode::Contract, why));
    let gone = || broken("an export is gone");
    let export = |store: &mut Store<State>, export| instance.get_module_export(store, export).ok_or_else(gone);
    let alloc = export(store, &call.alloc)?.into_func().ok_or_else(gone)?.typed::<u32, u32>(&*store)?;
    let memory = export(store, &call.memory)?.into_memory().ok_or_else(gone)?;
    let function = export(store, &call.function)?.into_func().ok_or_else(gone)?;
    let len = u32::try_from(input.len()).map_err(|_| broken("the input is larger than any memory"))?;
    let at = alloc.call(&mut *store, len)?;
    let place = place(at, len, memory.data_size(&*store)).ok_or_else(|| broken("alloc: outside its memory"))?;
    memory.data_mut(&mut *store)[place].copy_from_slice(input);
    let result = match call.entry {
        BytesEntry::Run => function.typed::<(u32, u32), u64>(&*store)?.call(&mut *store, (at, len))?,
        BytesEntry::Filter => {
            let filter = function.typed::<(u32, u32), u32>(&*store)?;
            return match filter.call(&mut *store, (at, len))? {
                0 => Ok(Bytes::from_static(REJECTED)),
                1 => Ok(Bytes::from_static(ACCEPTED)),
                _ => Err(broken("filter: a verdict other than 0 and 1")),
            };
        }
        BytesEntry::Observe => {
            function.typed::<(u32, u32), ()>(&*store)?.call(&mut *store, (at, len))?;
            return Ok(Bytes::new());
        }
    };
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the result")]
    let (at, len) = ((result >> 32) as u32, result as u32);
    let data = memory.data(&*store);
    let place = self::place(at, len, data.len()).ok_or_else(|| broken("run: a result outside its memory"))?;
    if u64::from(len) > bound {
        return Err(Error::new(Stop::from(LimitHit::Output { bound })));
    }
    Ok(Bytes::copy_from_slice(&data[place]))
}

fn place(at: u32, len: u32, size: usize) -> Option<std::ops::Range<usize>> {
    let (start, end) = (at as usize, (at as usize).checked_add(len as usize)?);
    (end <= size).then_some(start..end)
}

/// Parses a call's arguments by its parameters.
pub(super) fn arguments(ty: &FuncType, args: &[String]) -> Result<Vec<Val>, Refusal> {
    if ty.params().len() != args.len() {
        let why = format!("it takes {} and got {}", ty.params().len(), args.len());
        return Err(Refusal::Arguments(why));
    }
    ty.params().zip(args).map(|(ty, text)| number(&ty, text)).collect()
}

/// Integers may be written signed or unsigned.
fn number(ty: &ValType, text: &str) -> Result<Val, Refusal> {
    let value = match ty {
        ValType::I32 => {
            text.parse::<i32>().ok().or_else(|| text.parse::<u32>().ok().map(u32::cast_signed)).map(Val::I32)
        }
        ValType::I64 => {
            text.parse::<i64>().ok().or_else(|| text.parse::<u64>().ok().map(u64::cast_signed)).map(Val::I64)
        }
        ValType::F32 => text.parse::<f32>().ok().map(|x| Val::F32(if x.is_nan() { f32::NAN } else { x }.to_bits())),
        ValType::F64 => text.parse::<f64>().ok().map(|x| Val::F64(if x.is_nan() { f64::NAN } else { x }.to_bits())),
        _ => None,
    };
    value.ok_or_else(|| Refusal::Arguments(format!("`{}` is not {ty}", text.get(..64).unwrap_or(text))))
}

/// Calls an export and prints its results.
pub(super) fn call(
    store: &mut Store<State>,
    instance: Instance,
    name: &str,
    ty: &FuncType,
    args: &[Val],
) -> Result<Bytes> {
    let function = instance
        .get_func(&mut *store, name)
        .ok_or_else(|| Error::new(Stop::Trap(TrapCode::Contract, "the entry is gone")))?;
    let mut results = vec![Val::I32(0); ty.results().len()];
    function.call(store, args, &mut results)?;
    let mut text = String::new();
    for result in &results {
        let line = match result {
            Val::I32(value) => writeln!(text, "{value}"),
            Val::I64(value) => writeln!(text, "{value}"),
            Val::F32(bits) => writeln!(text, "{}", f32::from_bits(*bits)),
            Val::F64(bits) => writeln!(text, "{}", f64::from_bits(*bits)),
            _ => Ok(()),
        };
        line?;
    }
    Ok(text.into())
}
