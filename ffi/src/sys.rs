//! The generated bindings, private to this crate. `build.rs` names everything that is in them;
//! `rte_mbuf` and `rte_mempool` are opaque here, so no DPDK structure is laid out in Rust.
#![allow(non_camel_case_types, non_upper_case_globals, dead_code, missing_docs)]
#![allow(clippy::all, clippy::undocumented_unsafe_blocks, unsafe_op_in_unsafe_fn)]

include!(concat!(env!("OUT_DIR"), "/sys.rs"));
