//! From a request to its bytes: graphs are evaluated inside out, digests are looked up in this node's cassette.

use bytes::Bytes;

use crate::cassette::Cassette;
use crate::error::{EvalError, RequestError};
use crate::limits::MAX_GRAPH_DEPTH;
use crate::node::Node;
use crate::record::{Resolved, Upstream};
use crate::reply::Payload;
use crate::request::{Code, Request, Slot, Source};

/// A request's code and its inputs, in the order of its slots.
pub(super) type Loaded = (Bytes, Vec<(Slot, Bytes)>);

/// Evaluates every input that is the output of another request, and puts its bytes in place; `waits` as for [`Node::eval_at`].
pub(super) async fn resolve(
    node: &Node,
    mut request: Request,
    depth: usize,
    waits: bool,
) -> Result<Resolved, EvalError> {
    if depth > MAX_GRAPH_DEPTH {
        return Err(RequestError::TooLarge {
            what: "depth of the request graph".to_owned(),
            found: depth as u64,
            bound: MAX_GRAPH_DEPTH as u64,
        }
        .into());
    }
    let mut upstream = Vec::new();
    let timeout = request.options.timeout;
    for source in request.inputs.values_mut() {
        let Source::Output(inner, name) = source else { continue };
        let mut inner = (**inner).clone();
        inner.options.timeout = inner.options.timeout.or(timeout);
        // Boxed, since evaluating resolves again.
        let answer = Box::pin(node.eval_at(inner, depth + 1, waits)).await?;
        upstream.push(Upstream { request: answer.id, answer: answer.reply.answer() });
        let output = answer.reply.output(name).cloned();
        let missing = || RequestError::NoSuchOutput(format!("{name:?}"));
        *source = Source::Payload(output.ok_or_else(missing)?);
    }
    Ok(Resolved { request, upstream })
}

/// The bytes of a resolved request.
pub(super) fn load(cassette: &Cassette, request: &Request) -> Result<Loaded, EvalError> {
    let bytes = |payload: &Payload| match payload {
        Payload::Inline(bytes) => Ok(bytes.clone()),
        Payload::Stored(blob) => cassette.blob(blob.digest).ok().flatten().ok_or(EvalError::InputMissing(*blob)),
    };
    let code = match &request.program.code {
        Code::Bytes(payload) => bytes(payload)?,
        Code::Opaque { .. } => Bytes::new(),
    };
    let input = |(slot, source): (&Slot, &Source)| match source {
        Source::Payload(payload) => Ok((slot.clone(), bytes(payload)?)),
        Source::Output(..) => Err(RequestError::Unresolved.into()),
    };
    let inputs = request.inputs.iter().map(input).collect::<Result<_, EvalError>>()?;
    Ok((code, inputs))
}
