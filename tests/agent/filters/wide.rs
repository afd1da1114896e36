//! wide: a filter that calls every host function that a board has, and says what came of it in headers and in its log.

use log::info;
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, BufferType, ContextType, LogLevel, MapType, MetricType, Status};
use std::time::{Duration, UNIX_EPOCH};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Trace);
    proxy_wasm::set_root_context(|id| Box::new(Root { id, counter: 0, ticks: 0 }));
}}

struct Root {
    id: u32,
    counter: u32,
    ticks: u32,
}

impl Context for Root {
    fn on_done(&mut self) -> bool {
        info!("root done");
        true
    }
}

impl RootContext for Root {
    fn on_vm_start(&mut self, size: usize) -> bool {
        info!("vm start {} {:?}", size, self.get_vm_configuration());
        self.set_tick_period(Duration::from_millis(10));
        true
    }

    fn on_configure(&mut self, size: usize) -> bool {
        info!(
            "configure {} {:?}",
            size,
            self.get_plugin_configuration().map(String::from_utf8)
        );
        self.counter = hostcalls::define_metric(MetricType::Counter, "messages").unwrap();
        let gauge = hostcalls::define_metric(MetricType::Gauge, "bytes").unwrap();
        hostcalls::record_metric(gauge, 7).unwrap();
        hostcalls::increment_metric(gauge, -9).unwrap();
        info!("gauge {:?}", hostcalls::get_metric(gauge));
        info!("no metric {:?}", hostcalls::get_metric(99));
        info!("falls {:?}", hostcalls::increment_metric(self.counter, -1));
        info!("level {:?}", hostcalls::get_log_level());
        true
    }

    fn on_tick(&mut self) {
        self.ticks += 1;
        self.set_shared_data("ticks", Some(self.ticks.to_string().as_bytes()), None)
            .unwrap();
        info!("tick {} of {}", self.ticks, self.id);
    }

    fn on_queue_ready(&mut self, queue: u32) {
        info!("queue {}", queue);
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Wide {
            id,
            counter: self.counter,
        }))
    }
}

struct Wide {
    id: u32,
    counter: u32,
}

impl Wide {
    fn what(&self) -> String {
        self.get_http_request_header("x-do").unwrap_or_default()
    }
}

impl Context for Wide {
    fn on_done(&mut self) -> bool {
        info!("done {}", self.id);
        true
    }
}

impl HttpContext for Wide {
    fn on_http_request_headers(&mut self, headers: usize, end: bool) -> Action {
        info!("headers {} {} {:?}", headers, end, self.get_http_request_headers());
        info!("bytes {}", self.get_http_request_headers_bytes().len());
        info!(
            "trailers {:?} {:?}",
            self.get_http_request_trailers(),
            self.get_http_response_headers()
        );
        info!(
            "answers {:?} {:?}",
            self.get_http_response_header("x"),
            self.get_http_response_body(0, 9)
        );
        info!("path {:?}", self.get_property(vec!["request", "path"]).map(String::from_utf8));
        info!("no property {:?}", self.get_property(vec!["node", "id"]));
        info!(
            "later {}",
            self.get_current_time().duration_since(UNIX_EPOCH).unwrap().as_secs() > 1_600_000_000
        );
        hostcalls::increment_metric(self.counter, 1).unwrap();
        info!("messages {:?}", hostcalls::get_metric(self.counter));
        let (value, version) = self.get_shared_data("count");
        let count: u32 = value.map_or(0, |each| String::from_utf8(each).unwrap().parse().unwrap());
        self.set_shared_data("count", Some((count + 1).to_string().as_bytes()), version)
            .unwrap();
        info!(
            "stale {:?}",
            self.set_shared_data("count", Some(b"0"), Some(version.unwrap_or(0) + 1000)) == Err(Status::CasMismatch)
        );
        info!("count {:?}", self.get_shared_data("count").0.map(String::from_utf8));
        info!("context {:?}", hostcalls::set_effective_context(12345));
        hostcalls::set_effective_context(self.id).unwrap();
        match self.what().as_str() {
            "answer" => {
                self.send_http_response(299, vec![("x-made-by", "wide"), ("content-length", "1")], Some(b"answered"));
                return Action::Pause;
            }
            "reset" => {
                self.reset_http_request();
                return Action::Pause;
            }
            "resume" => {
                self.resume_http_request();
                return Action::Pause;
            }
            "call" => {
                let called = self.dispatch_http_call(
                    "elsewhere",
                    vec![(":method", "GET"), (":path", "/"), (":authority", "a")],
                    None,
                    vec![],
                    Duration::from_secs(1),
                );
                info!("call {:?}", called);
            }
            "queue" => info!("queue {}", self.register_shared_queue("q")),
            "property" => self.set_property(vec!["mine"], Some(b"1")),
            _ => (),
        }
        let all = self.get_http_request_headers();
        let mut kept: Vec<(&str, &str)> = all.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        kept.push(("x-set", "1"));
        self.set_http_request_headers(kept);
        self.add_http_request_header("x-added", "1");
        self.add_http_request_header("x-added", "2");
        self.set_http_request_header("x-added-no-more", None);
        self.set_http_request_header("x-replaced", Some("3"));
        self.set_http_request_header_bytes("x-bytes", Some(b"4"));
        info!("both {:?}", self.get_http_request_header("x-added"));
        Action::Continue
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        info!("body {} {} {:?}", size, end, self.get_http_request_body(0, 4));
        info!("beyond {:?}", self.get_http_request_body(size + 1, 4));
        hostcalls::set_buffer(BufferType::HttpRequestBody, 0, 0, b"<").unwrap();
        hostcalls::set_buffer(BufferType::HttpRequestBody, usize::MAX, 0, b">").unwrap();
        info!(
            "map {:?}",
            hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, "x-bytes")
        );
        if self.what() == "hold" {
            return Action::Pause;
        }
        Action::Continue
    }

    fn on_log(&mut self) {
        info!("log {} {:?}", self.id, self.get_http_request_header(":path"));
    }
}
