//! Tokio's "hello": the echo server that its documentation begins with, which reads the head of a
//! request and answers it instead. A connection is kept as HTTP/1.1 and HTTP/1.0 say.
use std::{env, fs, io, sync::Arc};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

#[tokio::main]
async fn main() -> io::Result<()> {
    let page = Arc::new(env::var("PAGE").map_or(Ok(Vec::new()), fs::read)?);
    let port = env::var("PORT").expect("PORT is set");
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    loop {
        let (socket, _) = listener.accept().await?;
        let page = page.clone();
        tokio::spawn(async move {
            // A client that went away in the middle is no concern of the others.
            let _ = serve(socket, &page).await;
        });
    }
}

async fn serve(mut socket: TcpStream, page: &[u8]) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let (reading, mut writing) = socket.split();
    let mut reader = BufReader::new(reading);
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let (kind, body): (_, &[u8]) = if line.starts_with("GET /page ") {
            ("application/json", page)
        } else {
            ("text/plain", b"Hello World!\n")
        };
        let old = line.trim_end().ends_with("HTTP/1.0");
        let mut keep = !old;
        loop {
            line.clear();
            if reader.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            if line == "\r\n" {
                break;
            }
            if let Some((name, value)) = line.split_once(':') {
                if name.eq_ignore_ascii_case("connection") {
                    keep = if old {
                        value.trim().eq_ignore_ascii_case("keep-alive")
                    } else {
                        !value.trim().eq_ignore_ascii_case("close")
                    };
                }
            }
        }
        let connection = match (old, keep) {
            (true, true) => "Connection: keep-alive\r\n",
            (_, false) => "Connection: close\r\n",
            _ => "",
        };
        let mut answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{connection}\r\n",
            body.len(),
        )
        .into_bytes();
        answer.extend_from_slice(body);
        writing.write_all(&answer).await?;
        if !keep {
            return writing.shutdown().await;
        }
    }
}
