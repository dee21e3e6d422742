//! One question to an HTTP port.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, ToSocketAddrs};

/// `GET path`: the status line and everything after it; the error if nobody answers.
pub async fn http_get(address: impl ToSocketAddrs, path: &str) -> std::io::Result<String> {
    http(address, "GET", path).await
}

/// The same with another verb.
pub async fn http(address: impl ToSocketAddrs, verb: &str, path: &str) -> std::io::Result<String> {
    http_with(address, verb, path, "").await
}

/// The same with something to tell.
pub async fn http_with(address: impl ToSocketAddrs, verb: &str, path: &str, body: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let length = body.len();
    let request =
        format!("{verb} {path} HTTP/1.1\r\nHost: armdb\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
