//! guard: a filter of proxy-wasm. It lets messages with a token pass, takes the token out, and drops or answers the others.

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root { token: String::new() }));
}}

struct Root {
    token: String,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        self.token = String::from_utf8(self.get_plugin_configuration().unwrap_or_default()).unwrap_or_default();
        !self.token.is_empty()
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Guard { token: self.token.clone(), known: false }))
    }
}

struct Guard {
    token: String,
    known: bool,
}

impl Context for Guard {}

impl HttpContext for Guard {
    /// A request of HTTP has its token in a header.
    fn on_http_request_headers(&mut self, _headers: usize, end_of_stream: bool) -> Action {
        match self.get_http_request_header("x-token") {
            Some(token) if token == self.token => {
                self.set_http_request_header("x-token", None);
                self.add_http_request_header("x-checked", "guard");
                self.known = true;
                Action::Continue
            }
            Some(_) => self.deny(),
            None if end_of_stream => self.deny(),
            None => Action::Pause, // it may be in the body
        }
    }

    /// Any other message begins with it.
    fn on_http_request_body(&mut self, size: usize, _end_of_stream: bool) -> Action {
        if self.known {
            return Action::Continue;
        }
        let body = self.get_http_request_body(0, size).unwrap_or_default();
        match body.strip_prefix(self.token.as_bytes()).and_then(|rest| rest.strip_prefix(b" ")) {
            Some(rest) => {
                self.set_http_request_body(0, size, rest);
                Action::Continue
            }
            None => self.deny(),
        }
    }
}

impl Guard {
    fn deny(&self) -> Action {
        log::info!("without the token: {}", self.get_http_request_header(":path").unwrap_or_default());
        self.send_http_response(403, vec![("x-reason", "token")], Some(b"not without the token"));
        Action::Pause
    }
}
