//! Listening: an address as people write it, `host:port`, with `*` for every address of this machine.

use std::io;

use tokio::net::TcpListener;

/// Listens at `address`. `*` is both families at once where there are two, else the one there is.
pub(crate) async fn bind(address: &str) -> io::Result<TcpListener> {
    let Some(port) = address.strip_prefix("*:") else { return TcpListener::bind(address).await };
    match TcpListener::bind(format!("[::]:{port}")).await {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => TcpListener::bind(format!("0.0.0.0:{port}")).await,
        bound => bound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_star_is_every_address_of_this_machine() {
        let listener = bind("*:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("reached by its first address");
        assert_eq!(bind(&format!("*:{port}")).await.expect_err("in use").kind(), io::ErrorKind::AddrInUse);
    }
}
