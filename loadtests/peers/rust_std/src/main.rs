//! "Hello" with the standard library alone: the web server at the end of the Rust book, with
//! a thread for each connection, since a connection that is kept would hold a thread of its pool.
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::{env, fs, sync::Arc, thread};

fn main() -> io::Result<()> {
    let page = Arc::new(env::var("PAGE").map_or(Ok(Vec::new()), fs::read)?);
    let port = env::var("PORT").expect("PORT is set");
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))?;
    for stream in listener.incoming() {
        let (stream, page) = (stream?, page.clone());
        thread::spawn(move || {
            // A client that went away in the middle is no concern of the others.
            let _ = serve(stream, &page);
        });
    }
    Ok(())
}

fn serve(mut stream: TcpStream, page: &[u8]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
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
            if reader.read_line(&mut line)? == 0 {
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
        stream.write_all(&answer)?;
        if !keep {
            return Ok(());
        }
    }
}
