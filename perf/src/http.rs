//! One request to the appliance's Unix socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// An answer takes no longer than this.
const PATIENCE: Duration = Duration::from_secs(30);

/// Puts `body` at `path`, and waits for the answer.
///
/// # Errors
/// If it is any but 200, with what was said.
pub fn put(socket: &Path, path: &str, kind: &str, body: &str) -> Result<()> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("reaching {}", socket.display()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let head = format!(
        "PUT {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    // The answer holds the whole configuration; its first line is enough.
    let mut answer = [0; 512];
    let read = stream.read(&mut answer)?;
    let said = String::from_utf8_lossy(&answer[..read]).into_owned();
    match said.starts_with("HTTP/1.1 200") {
        true => Ok(()),
        false => bail!("{path} was answered: {said}"),
    }
}
