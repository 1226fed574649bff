//! DPDK started for benchmarks: memory of the wanted kind, one pool of frames, the clock.

use anyhow::{Context, Result};
use clap::ValueEnum;
use dpdk_sys::{Eal, EalOptions, LogLevel, Memory as EalMemory, Mempool};

use crate::moments::Clock;
use crate::pages::Pages;
use crate::rig::{FRAMES, Ground};

/// What tables and buffers lie on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Memory {
    /// Huge pages, reserved for the run and given back.
    Huge,
    /// Ordinary pages.
    Plain,
}

/// Bytes that a buffer takes, with DPDK's own header, headroom, and the pool's.
const BUFFER: u64 = 2_048 + 128 + 128 + 64;
/// Room in a buffer, in bytes.
const ROOM: u16 = 2_048;
/// What DPDK and a worker take besides flows and frames, in bytes.
const BESIDES: u64 = 96 << 20;
/// Buffers for what a worker keeps to itself.
const SPARE: u32 = 4_096;

/// Started, and for how long pages are ours.
pub struct Started {
    /// What rigs stand on.
    pub ground: Ground,
    /// Whether it is on huge pages.
    pub huge: bool,
    _pages: Option<Pages>,
}

/// Starts DPDK on `core` with room for tables of so many bytes.
///
/// # Errors
/// If there is not so much memory, or DPDK refuses.
pub fn start(memory: Memory, tables: u64, core: usize) -> Result<Started> {
    let bytes = tables + u64::from(FRAMES as u32 + SPARE) * BUFFER + BESIDES;
    let pages = match memory {
        Memory::Huge => Pages::reserve(bytes)?,
        Memory::Plain => None,
    };
    let megabytes = bytes.div_ceil(1 << 20) as usize;
    let huge = pages.is_some();
    if memory == Memory::Huge && !huge {
        eprintln!(
            "perf: there is no room for {megabytes} MiB of huge pages: going on with plain ones"
        );
    }
    let eal = Eal::start(&EalOptions {
        program: "perf".into(),
        memory: match huge {
            true => EalMemory::Huge { megabytes },
            false => EalMemory::Plain { megabytes },
        },
        control_core: core,
        allowed: Vec::new(),
        log: LogLevel::Error,
    })?;
    let pool = Mempool::new(&eal, "frames", FRAMES as u32 + SPARE, ROOM, None)
        .context("the packet buffers do not fit the memory")?;
    let clock = Clock::starting_now(eal.tsc_hz());
    Ok(Started { ground: Ground { eal, pool, clock }, huge, _pages: pages })
}
