//! Rocket's "hello", as its guide has it. ROCKET_ADDRESS and ROCKET_PORT say where it listens.
use std::{env, fs};

use rocket::response::content::{RawJson, RawText};
use rocket::{get, launch, routes, State};

struct Page(String);

#[get("/")]
fn hello() -> RawText<&'static str> {
    RawText("Hello World!\n")
}

#[get("/page")]
fn page(page: &State<Page>) -> RawJson<&str> {
    RawJson(&page.0)
}

#[launch]
fn rocket() -> _ {
    let page = env::var("PAGE").map_or(String::new(), |path| {
        fs::read_to_string(path).expect("PAGE can be read")
    });
    rocket::build().manage(Page(page)).mount("/", routes![hello, page])
}
