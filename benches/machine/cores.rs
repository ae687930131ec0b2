//! Which cores processes run on.

use std::io;
use std::mem;

use crate::Outcome;

/// The two cores of a run: one for edge and origin together, one for load generator and upstream.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    /// What is measured runs here.
    pub chain: usize,
    /// What measures runs here.
    pub load: usize,
}

impl Cores {
    /// The first and the last core that this process may use.
    pub fn choose() -> Outcome<Self> {
        // SAFETY: cpu_set_t is a plain array of bits, for which zero is valid.
        let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
        // SAFETY: the kernel writes at most the size given.
        if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) } < 0 {
            return Err(io::Error::last_os_error().into());
        }
        // SAFETY: CPU_ISSET only reads `set`; the range keeps within it.
        let usable = |cpu: &usize| unsafe { libc::CPU_ISSET(*cpu, &set) };
        let mut cores = (0..libc::CPU_SETSIZE as usize).filter(usable);
        match (cores.next(), cores.next_back()) {
            (Some(chain), Some(load)) => Ok(Self { chain, load }),
            _ => Err("two cores are needed: one for the chain and one for the load".into()),
        }
    }
}

/// Binds the calling process and its future children to `core`. Safe between fork and exec: it allocates nothing.
pub fn pin(core: usize) -> io::Result<()> {
    // SAFETY: as in `choose`; CPU_SET ignores a core beyond the set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: writes one bit of `set`.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the kernel reads the size given.
    let result = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
