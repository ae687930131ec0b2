//! Whole Trunkline with real processes: edges, an origin and an upstream on loopback, port 0 everywhere.
//!
//! No sleeps: a test waits for ready lines, answers, or a condition with a deadline. Children are killed when a test
//! ends, and their logs are printed when it fails.

mod chain;
mod client;

mod bad_http1;
mod bad_http2;
mod bad_http3;
mod bulk;
mod config;
mod curl;
mod demo;
mod dev_upstream;
mod duplex;
mod ends;
mod events;
mod fields;
mod forgotten;
mod grpc;
mod halves;
mod lies;
mod limits;
mod methods;
mod pops;
mod refusals;
mod seen;
mod slow_clients;
mod upstreams;
mod websocket;
