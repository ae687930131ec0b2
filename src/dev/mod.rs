//! `edge dev`.

pub mod upstream;
