//! What a process costs, read from /proc.

use procfs::ProcResult;
use procfs::process::{Process, Task};

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Number of threads.
    threads: usize,
    /// Their CPU seconds, exact to nanoseconds; `None` if the kernel does not count them.
    exact_seconds: Option<f64>,
    user_seconds: f64,
    system_seconds: f64,
    rss_bytes: u64,
    peak_rss_bytes: u64,
    voluntary_switches: u64,
    involuntary_switches: u64,
}

/// What a process used between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Used {
    /// CPU time in seconds.
    pub cpu_seconds: f64,
    /// CPU time outside the kernel in seconds, exact to a tick of 10 ms.
    pub user_seconds: f64,
    /// CPU time inside the kernel in seconds, exact to a tick of 10 ms.
    pub system_seconds: f64,
    /// Resident memory at the end.
    pub rss_bytes: u64,
    /// Most resident memory since the process began.
    pub peak_rss_bytes: u64,
    /// Number of times that its threads waited.
    pub voluntary_switches: u64,
    /// Number of times that the kernel took the CPU from them.
    pub involuntary_switches: u64,
}

impl Usage {
    /// Reads what the process has used.
    ///
    /// # Errors
    /// Fails when there is no such process, or it belongs to another user.
    pub fn read(pid: i32) -> ProcResult<Self> {
        let process = Process::new(pid)?;
        let stat = process.stat()?;
        let status = process.status()?;
        let tasks: Vec<Task> = process.tasks()?.filter_map(Result::ok).collect();
        let nanos: Option<u64> = tasks.iter().map(|task| Some(task.schedstat().ok()?.sum_exec_runtime)).sum();
        let tasks_status: Vec<_> = tasks.iter().filter_map(|task| task.status().ok()).collect();
        let ticks = procfs::ticks_per_second() as f64;
        Ok(Self {
            threads: tasks.len(),
            exact_seconds: nanos.map(|nanos| nanos as f64 / 1e9),
            user_seconds: stat.utime as f64 / ticks,
            system_seconds: stat.stime as f64 / ticks,
            rss_bytes: status.vmrss.unwrap_or(0) * 1024,
            peak_rss_bytes: status.vmhwm.unwrap_or(0) * 1024,
            voluntary_switches: tasks_status.iter().filter_map(|task| task.voluntary_ctxt_switches).sum(),
            involuntary_switches: tasks_status
                .iter()
                .filter_map(|task| task.nonvoluntary_ctxt_switches)
                .sum(),
        })
    }

    /// Returns what was used since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Used {
        let user_seconds = self.user_seconds - before.user_seconds;
        let system_seconds = self.system_seconds - before.system_seconds;
        // A thread that ended took its exact time with it; only the ticks of the process remember it.
        let exact = match (self.exact_seconds, before.exact_seconds) {
            (Some(now), Some(then)) if self.threads >= before.threads => Some(now - then),
            _ => None,
        };
        Used {
            cpu_seconds: exact.unwrap_or(user_seconds + system_seconds),
            user_seconds,
            system_seconds,
            rss_bytes: self.rss_bytes,
            peak_rss_bytes: self.peak_rss_bytes,
            voluntary_switches: self.voluntary_switches.saturating_sub(before.voluntary_switches),
            involuntary_switches: self.involuntary_switches.saturating_sub(before.involuntary_switches),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_of_this_process_is_measured() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let before = Usage::read(pid).unwrap();
        let mut number = 1_u64;
        while Usage::read(pid).unwrap().since(&before).cpu_seconds < 0.02 {
            (0..100_000).for_each(|_| number = std::hint::black_box(number.wrapping_mul(3)));
        }
        let used = Usage::read(pid).unwrap().since(&before);
        assert!(used.rss_bytes > 100_000 && used.peak_rss_bytes >= used.rss_bytes, "{used:?}");
    }

    #[test]
    fn exact_times_count_only_while_no_thread_ends() {
        let before = Usage { threads: 3, exact_seconds: Some(7.0), user_seconds: 5.0, ..Usage::default() };
        let after = Usage { threads: 3, exact_seconds: Some(8.5), user_seconds: 6.25, ..before };
        assert_eq!(after.since(&before).cpu_seconds, 1.5);
        assert_eq!(Usage { threads: 2, ..after }.since(&before).cpu_seconds, 1.25);
        assert_eq!(Usage { exact_seconds: None, ..after }.since(&before).cpu_seconds, 1.25);
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert!(Usage::read(i32::MAX).is_err());
    }
}
