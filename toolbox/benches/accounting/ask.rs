//! Callers that ask as fast as they are answered, over connections that stay open. A client library would take more of the
//! processors than the server.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloakway_runtime::tls;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::load::Figures;

/// Asks `server`, which has `certificate`, with what `request` makes of a number; every answer is live.
pub(crate) fn run(
    server: SocketAddr,
    certificate: &Path,
    callers: usize,
    seconds: Duration,
    request: impl Fn(usize) -> Vec<u8> + Send + Sync + 'static,
) -> Figures {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let connector = TlsConnector::from(Arc::new(tls::client(certificate, None).unwrap()));
    let request = Arc::new(request);
    let begun = Instant::now();
    let asking: Vec<_> = (0..callers)
        .map(|caller| {
            let (connector, request) = (connector.clone(), request.clone());
            runtime.spawn(async move {
                let stream = TcpStream::connect(server).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let name = ServerName::IpAddress(server.ip().into());
                let mut stream = connector.connect(name, stream).await.unwrap();
                let (mut took, mut buffer) = (Vec::new(), vec![0; 4096]);
                let mut number = caller;
                while begun.elapsed() < seconds {
                    number += 1;
                    let asked = Instant::now();
                    stream.write_all(&request(number)).await.unwrap();
                    let mut length = 0;
                    while !whole(&buffer[..length]) {
                        let more = stream.read(&mut buffer[length..]).await.unwrap();
                        assert!(more > 0, "the connection ended");
                        length += more;
                    }
                    took.push(asked.elapsed());
                    let answer = std::str::from_utf8(&buffer[..length]).unwrap();
                    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(r#"{"live":true"#), "{answer}");
                }
                took
            })
        })
        .collect();
    let took = asking.into_iter().flat_map(|one| runtime.block_on(one).unwrap()).collect();
    Figures::new(took, begun.elapsed(), 0)
}

fn whole(answer: &[u8]) -> bool {
    let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let text = std::str::from_utf8(&answer[..head]).unwrap().to_ascii_lowercase();
    let (_, length) = text.split_once("content-length: ").expect("an answer states its length");
    let length: usize = length.lines().next().unwrap().parse().unwrap();
    answer.len() == head + 4 + length
}
