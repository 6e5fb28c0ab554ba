//! Hyperlane's "hello": hooks for a route and for sending, as its quick start has them.
use std::{env, fs, sync::OnceLock};

use hyperlane::*;

static PAGE: OnceLock<Vec<u8>> = OnceLock::new();

struct Hello;

impl ServerHook for Hello {
    async fn new(_: &mut Stream, _: &mut Context) -> Self {
        Self
    }

    async fn handle(self, _: &mut Stream, ctx: &mut Context) -> Status {
        ctx.get_mut_response()
            .set_status_code(200)
            .set_header(CONTENT_TYPE, TEXT_PLAIN)
            .set_body("Hello World!\n");
        Status::Continue
    }
}

struct Page;

impl ServerHook for Page {
    async fn new(_: &mut Stream, _: &mut Context) -> Self {
        Self
    }

    async fn handle(self, _: &mut Stream, ctx: &mut Context) -> Status {
        ctx.get_mut_response()
            .set_status_code(200)
            .set_header(CONTENT_TYPE, APPLICATION_JSON)
            .set_body(PAGE.get().cloned().unwrap_or_default());
        Status::Continue
    }
}

struct Send;

impl ServerHook for Send {
    async fn new(_: &mut Stream, _: &mut Context) -> Self {
        Self
    }

    async fn handle(self, stream: &mut Stream, ctx: &mut Context) -> Status {
        // What a client is told of its connection is left to the route; ab asks for it by HTTP/1.0.
        let keep = ctx.get_request().is_enable_keep_alive();
        let data = ctx
            .get_mut_response()
            .set_header(CONNECTION, if keep { KEEP_ALIVE } else { CLOSE })
            .build();
        if stream.try_send(data).await.is_err() {
            stream.set_closed(true);
            return Status::Reject;
        }
        Status::Continue
    }
}

#[tokio::main]
async fn main() {
    if let Ok(path) = env::var("PAGE") {
        let _ = PAGE.set(fs::read(path).expect("PAGE can be read"));
    }
    let port = env::var("PORT").expect("PORT is set");
    let mut config = ServerConfig::default();
    config.set_address(format!("127.0.0.1:{port}")).set_nodelay(Some(true));
    let mut server = Server::default();
    server.server_config(config);
    server.route::<Hello>("/");
    server.route::<Page>("/page");
    server.response_middleware::<Send>();
    server.run().await.expect("the port is free").wait().await;
}
