//! `--bind` and `--groups`: one buffer, one size, in one word.

use std::path::Path;

use super::{Bound, usage};
use crate::cli::{Failure, ask, size};
use crate::evaluator::gpu::{Binding, Kind, Size};

/// `[GROUP.]BINDING[:NAME]=KIND:VALUE`.
pub(super) fn parse(text: &str) -> Result<Bound, Failure> {
    let wrong = || usage(&format!("`{text}` is not [GROUP.]BINDING[:NAME]=KIND:VALUE"));
    let (place, rest) = text.split_once('=').ok_or_else(wrong)?;
    let (kind, value) = rest.split_once(':').ok_or_else(wrong)?;
    let (numbers, name) = place.split_once(':').map_or((place, None), |(numbers, name)| (numbers, Some(name)));
    let (group, binding) = numbers.split_once('.').unwrap_or(("0", numbers));
    let (group, binding) = (group.parse().map_err(|_| wrong())?, binding.parse().map_err(|_| wrong())?);
    let name = name.map_or_else(|| format!("{group}.{binding}"), str::to_owned);
    let name = name.parse().map_err(crate::error::EvalError::from)?;
    let (kind, bytes, like) = kind_of(kind, value).map_err(|why| usage(&format!("`{text}`: {why}")))?;
    let bytes = match bytes {
        Some(Source::File(path)) => Some(ask::read(Path::new(&path))?),
        Some(Source::Bytes(bytes)) => Some(bytes),
        None => None,
    };
    Ok(Bound { binding: Binding { group, binding, name, kind }, bytes, like })
}

enum Source {
    File(String),
    Bytes(Vec<u8>),
}

fn kind_of(kind: &str, value: &str) -> Result<(Kind, Option<Source>, Option<String>), String> {
    let sized = |kind: fn(Size) -> Kind| match size(value) {
        Ok(bytes) => (kind(Size::Bytes(bytes)), None, None),
        // The place is put in when all buffers are known.
        Err(_) => (kind(Size::Of { binding: 0, times: 1, over: 1 }), None, Some(value.to_owned())),
    };
    Ok(match kind {
        "in" => (Kind::Input, Some(Source::File(value.to_owned())), None),
        "inout" => (Kind::InOut, Some(Source::File(value.to_owned())), None),
        "out" => sized(Kind::Output),
        "scratch" => sized(Kind::Scratch),
        "u32" | "i32" | "f32" => (Kind::Input, Some(Source::Bytes(numbers(kind, value.split(','))?)), None),
        other => return Err(format!("`{other}` is none of in, inout, out, scratch, u32, i32, f32")),
    })
}

/// Numbers as a shader sees them.
fn numbers<'a>(kind: &str, texts: impl Iterator<Item = &'a str>) -> Result<Vec<u8>, String> {
    let number = |text: &str| {
        let text = text.trim();
        let bytes = match kind {
            "u32" => text.parse::<u32>().ok().map(u32::to_le_bytes),
            "i32" => text.parse::<i32>().ok().map(i32::to_le_bytes),
            _ => text.parse::<f32>().ok().map(f32::to_le_bytes),
        };
        bytes.ok_or_else(|| format!("`{text}` is no {kind}"))
    };
    let numbers = texts.map(number).collect::<Result<Vec<_>, String>>()?;
    Ok(numbers.concat())
}

/// `X[,Y[,Z]]`.
pub(super) fn groups(text: &str) -> Result<[u32; 3], Failure> {
    let wrong = || usage(&format!("--groups {text} is not X[,Y[,Z]]"));
    let mut groups = [1; 3];
    let parts: Vec<_> = text.split(',').collect();
    if parts.len() > groups.len() {
        return Err(wrong());
    }
    for (group, part) in groups.iter_mut().zip(parts) {
        *group = part.trim().parse().map_err(|_| wrong())?;
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_in_one_word() {
        let bound = parse("1.2:table=u32:1,2,4294967295").unwrap();
        assert_eq!((bound.binding.group, bound.binding.binding, bound.binding.name.as_str()), (1, 2, "table"));
        assert_eq!(
            (bound.binding.kind, bound.bytes),
            (Kind::Input, Some([1_u32, 2, u32::MAX].map(u32::to_le_bytes).concat()))
        );
        let bound = parse("3=out:64KiB").unwrap();
        assert_eq!((bound.binding.name.as_str(), bound.binding.kind), ("0.3", Kind::Output(Size::Bytes(65_536))));
        assert_eq!(parse("3=scratch:table").unwrap().like.as_deref(), Some("table"));
        for wrong in ["", "1", "1=out", "x=out:4", "1=nothing:4", "1=u32:-1", "1:../x=out:4", "1=f32:one"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(groups("4,5").unwrap(), [4, 5, 1]);
        assert!(groups("4,5,6,7").is_err() && groups("x").is_err());
    }
}
