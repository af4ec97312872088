//! The same bytes by iroh-blobs, on loopback without relays: memory store to memory store, one connection.

use iroh::endpoint::presets;
use iroh::protocol::Router;
use iroh::{Endpoint, EndpointAddr, RelayMode};
use iroh_blobs::store::mem::MemStore;
use iroh_blobs::{BlobsProtocol, Hash};
use tokio::runtime::Runtime;

use super::{Failure, Fetch, LARGE};

/// As its documentation starts it.
pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

async fn endpoint() -> Result<Endpoint, Failure> {
    let builder = Endpoint::builder(presets::Minimal).relay_mode(RelayMode::Disabled);
    Ok(builder.clear_ip_transports().bind_addr("127.0.0.1:0")?.bind().await?)
}

pub(crate) async fn serve() -> Result<(), Failure> {
    let (endpoint, store) = (endpoint().await?, MemStore::new());
    let mut bytes = vec![7; LARGE];
    bytes.iter_mut().zip(0_u64..).for_each(|(byte, at)| *byte = (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8);
    let tag = store.add_bytes(bytes).await?;
    let at = endpoint.bound_sockets().into_iter().find(std::net::SocketAddr::is_ipv4).ok_or("no socket")?;
    println!("{} {at} {}", endpoint.id(), tag.hash);
    let _router = Router::builder(endpoint).accept(iroh_blobs::ALPN, BlobsProtocol::new(&store, None)).spawn();
    std::future::pending().await
}

pub(crate) async fn client(args: &[&str]) -> Result<(), Failure> {
    let [pid, at] = args else { return Err("whom?".into()) };
    let words: Vec<&str> = at.split(' ').collect();
    let [id, address, hash] = words[..] else { return Err("where?".into()) };
    let (endpoint, store) = (endpoint().await?, MemStore::new());
    let server = EndpointAddr::new(id.parse()?).with_ip_addr(address.parse()?);
    let connection = endpoint.connect(server, iroh_blobs::ALPN).await?;
    let hash: Hash = hash.parse()?;
    let fetch = async {
        store.remote().fetch(connection, hash).await?;
        let bytes = store.get_bytes(hash).await?;
        if bytes.len() == LARGE { Ok(()) } else { Err(Failure::from("too short")) }
    };
    Fetch::print(pid.parse()?, fetch).await
}
