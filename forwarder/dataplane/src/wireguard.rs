//! WireGuard links configured by generic netlink ([`forwarder_core::wireguard`]); the interface itself is made by rtnetlink.

use std::time::Duration;

use cloakway_crypto::Secret;
use forwarder_core::wireguard::{self, FAMILY, Found, WireGuard};
use rtnetlink::sys::protocols::NETLINK_GENERIC;
use rtnetlink::sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};

use crate::{DataplaneError, LinkProblem};

/// How long the kernel may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

const ENOENT: i32 = 2;

/// Makes the link what `wanted` says; says whether something had to be changed.
pub(crate) async fn configure(interface: &str, wanted: &WireGuard) -> Result<bool, LinkProblem> {
    let mut socket = open()?;
    let family = family(&mut socket).await?;
    let before = device(&mut socket, family, interface).await?;
    let changes = wanted.changes(family, interface, &before);
    for change in &changes {
        socket.send_to(change.expose(), &SocketAddr::new(0, 0)).await.map_err(DataplaneError::from)?;
        let answer = received(&mut socket).await?;
        match Found::default().take(answer.expose()) {
            Ok(_) => {}
            Err(error) => return Err(refused(&format!("configure {interface}"), error).into()),
        }
    }
    Ok(!changes.is_empty())
}

/// What the link is.
pub(crate) async fn found(interface: &str) -> Result<Found, LinkProblem> {
    let mut socket = open()?;
    let family = family(&mut socket).await?;
    Ok(device(&mut socket, family, interface).await?)
}

fn open() -> Result<TokioSocket, DataplaneError> {
    let mut socket = TokioSocket::new(NETLINK_GENERIC)?;
    socket.socket_mut().bind_auto()?;
    Ok(socket)
}

/// The number that the family has in this kernel.
async fn family(socket: &mut TokioSocket) -> Result<u16, LinkProblem> {
    socket.send_to(&wireguard::ask_family(), &SocketAddr::new(0, 0)).await.map_err(DataplaneError::from)?;
    let answer = received(socket).await?;
    if let Some(family) = wireguard::family(answer.expose()) {
        // What acknowledges it comes behind.
        let _ = received(socket).await?;
        return Ok(family);
    }
    match Found::default().take(answer.expose()) {
        Err(Ok(ENOENT)) => Err(LinkProblem::NotInKernel { kind: FAMILY, option: "CONFIG_WIREGUARD" }),
        Err(error) => Err(refused("find the family wireguard", error).into()),
        Ok(_) => Err(silent().into()),
    }
}

async fn device(socket: &mut TokioSocket, family: u16, interface: &str) -> Result<Found, DataplaneError> {
    socket.send_to(&wireguard::ask_device(family, interface), &SocketAddr::new(0, 0)).await?;
    let mut found = Found::default();
    while !found
        .take(received(socket).await?.expose())
        .map_err(|error| refused(&format!("look at {interface}"), error))?
    {}
    Ok(found)
}

/// What came, which may hold a key.
async fn received(socket: &mut TokioSocket) -> Result<Secret<Vec<u8>>, DataplaneError> {
    let answer = tokio::time::timeout(PATIENCE, socket.recv_from_full()).await.map_err(|_| silent())?;
    Ok(Secret::new(answer?.0))
}

fn silent() -> DataplaneError {
    DataplaneError::Netlink { what: "WireGuard".to_owned(), why: "the kernel does not answer".to_owned() }
}

fn refused(what: &str, error: Result<i32, wireguard::CutOff>) -> DataplaneError {
    let why = match error {
        Ok(number) => std::io::Error::from_raw_os_error(number).to_string(),
        Err(cut_off) => cut_off.to_string(),
    };
    DataplaneError::Netlink { what: what.to_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The one answer that every kernel gives: it has the family or it has not.
    #[tokio::test]
    async fn a_kernel_without_it_is_told_of_by_its_option() {
        let told = found("no-such-wg").await.unwrap_err().to_string();
        let without =
            "this kernel has no interfaces of kind wireguard: its option CONFIG_WIREGUARD is missing, or the module is";
        let with = told.contains("look at no-such-wg");
        assert!(told == without || with, "{told}");
    }
}
