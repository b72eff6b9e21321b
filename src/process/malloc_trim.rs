//! How much memory there is; and the return of memory to the system after many peers have left or many
//! connections have closed. glibc's allocator keeps what was freed in small pieces, so that without this a
//! tracker would stay as large as it ever was.

use std::fs::read_to_string;
use std::path::Path;

/// Octets by which swarms or connections must have shrunk.
const SHRUNK_MIN: usize = 4 << 20;
/// Octets that a connection is assumed to take: buffers of its head and its answer, and twice that with TLS.
const CONNECTION_OCTETS: u64 = 16 << 10;
/// Divisor of the most they had, which gives the share by which they must have shrunk: returning memory is
/// work that should be rare.
const SHRUNK_SHARE: usize = 4;

/// Watches the memory of swarms and connections.
#[derive(Debug, Default)]
pub(crate) struct MemoryTrimmer {
    swarms: Shrinkage,
    connections: Shrinkage,
}

impl MemoryTrimmer {
    /// Returns memory to the system if the swarms, which take this number of octets, or the connections have
    /// shrunk enough. To be called about once a second.
    pub(crate) fn trim_if_shrunk(&mut self, swarms: usize, connections: u64) {
        let connections = usize::try_from(connections * CONNECTION_OCTETS).unwrap_or(usize::MAX);
        let due = [self.swarms.is_due(swarms), self.connections.is_due(connections)];
        if due.contains(&true) {
            trim_heap();
        }
    }
}

/// How far something has shrunk.
#[derive(Debug, Default)]
struct Shrinkage {
    /// Most octets since memory was last returned.
    highest: usize,
}

impl Shrinkage {
    fn is_due(&mut self, octets: usize) -> bool {
        self.highest = self.highest.max(octets);
        let due = self.highest - octets >= SHRUNK_MIN.max(self.highest / SHRUNK_SHARE);
        if due {
            self.highest = octets;
        }
        due
    }
}

/// Returns free pages of the allocator to the system. It holds the lock of each arena while it works on it.
fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim may be called at any time by any thread; it touches only memory that is free.
    #[expect(unsafe_code, reason = "one call into the allocator, which has no safe name")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Returns the octets of memory that this process may use: those of the machine, or of its cgroups if one of
/// them has less; 0 if that is unknown.
pub(crate) fn available_memory() -> u64 {
    let root = Path::new("/");
    cgroup_limits(root).chain(machine_memory(root)).min().unwrap_or(0)
}

/// Returns the octets of the machine.
fn machine_memory(root: &Path) -> Option<u64> {
    let text = read_to_string(root.join("proc/meminfo")).ok()?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Returns the limits of the process's cgroup and of those around it, of version 2 or 1.
fn cgroup_limits(root: &Path) -> impl Iterator<Item = u64> {
    let text = read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = text.lines().filter_map(|line| {
        let [_, controllers, path] = *line.splitn(3, ':').collect::<Vec<_>>() else { return None };
        let (mount, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let around = Path::new(path.trim_start_matches('/')).ancestors();
        // "max" is not a number: there is no limit.
        let limit = |folder: &Path| {
            read_to_string(root.join(mount).join(folder).join(file)).ok()?.trim().parse().ok()
        };
        around.filter_map(limit).min()
    });
    limits.collect::<Vec<u64>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_is_that_of_the_machine_or_of_the_tightest_cgroup() {
        let root = crate::config::test_folder::TestFolder::new();
        let write = |name: &str, text: &str| {
            let path = root.path(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let there_is = || cgroup_limits(root.as_ref()).chain(machine_memory(root.as_ref())).min();
        assert_eq!(there_is(), None);
        write("proc/meminfo", "MemTotal:        8000000 kB\nMemFree:          123 kB\n");
        assert_eq!(there_is(), Some(8_192_000_000));
        write("proc/self/cgroup", "0::/user.slice/hayate.service\n");
        write("sys/fs/cgroup/user.slice/hayate.service/memory.max", "max\n");
        assert_eq!(there_is(), Some(8_192_000_000));
        write("sys/fs/cgroup/user.slice/memory.max", "1000000000\n");
        assert_eq!(there_is(), Some(1_000_000_000));
        write("sys/fs/cgroup/user.slice/hayate.service/memory.max", "700000000\n");
        assert_eq!(there_is(), Some(700_000_000));
        write("proc/self/cgroup", "3:cpu,memory:/box\n1:name=systemd:/\n");
        write("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(there_is(), Some(8_192_000_000));
        write("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "500000000\n");
        assert_eq!(there_is(), Some(500_000_000));
    }

    #[test]
    fn memory_is_given_back_after_a_real_decline_and_once() {
        let mut decline = Shrinkage::default();
        let mib = 1 << 20;
        let looks =
            [(100, false), (80, false), (76, false), (75, true), (75, false), (57, false), (56, true)];
        let small = [(43, false), (42, true), (0, true), (7, false), (4, false), (3, true)];
        for (octets, due) in looks.into_iter().chain(small) {
            assert_eq!(decline.is_due(octets * mib), due, "{octets} MiB");
        }
    }

    #[test]
    fn closed_connections_count_beside_swarms() {
        let mut returner = MemoryTrimmer::default();
        returner.trim_if_shrunk(0, 1000);
        assert_eq!(returner.connections.highest, 1000 * 16384);
        returner.trim_if_shrunk(0, 751);
        assert_eq!(returner.connections.highest, 1000 * 16384, "a fourth of it is not gone");
        returner.trim_if_shrunk(0, 743);
        assert_eq!(returner.connections.highest, 743 * 16384);
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn small_pieces_that_were_freed_leave_the_process() {
        let resident = || {
            let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
            pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
        };
        // A piece at the end keeps the rest from being cut off.
        let pieces: Vec<Box<[u8; 100]>> = (0..400_000).map(|_| Box::new([7; 100])).collect();
        let last = Box::new([7_u8; 100]);
        drop(pieces);
        let before = resident();
        trim_heap();
        let after = resident();
        assert!(before - after > 20 << 20, "{before} to {after}");
        drop(last);
    }
}
