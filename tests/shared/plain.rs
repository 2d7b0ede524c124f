//! Plain HTTP, byte by byte.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
};

/// Sends a GET with additional fields, each a line with its end, and returns the whole response.
///
/// # Errors
/// If the connection fails.
pub(crate) fn get(address: impl ToSocketAddrs, host: &str, path: &str, fields: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{fields}\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
