//! How much memory the process may use: the machine's, or less where a control group says so.

use std::fs;
use std::path::Path;

/// What is assumed where the system does not tell.
pub const FALLBACK_MEMORY: u64 = 1 << 30;

/// The memory that this process may use, in bytes; `None` where the system does not tell.
///
/// The least of the machine's memory and the limits of the process's control group and of its ancestors (versions 1 and 2).
pub fn memory_bytes() -> Option<u64> {
    memory_under(Path::new("/"))
}

fn memory_under(root: &Path) -> Option<u64> {
    let machine = fs::read_to_string(root.join("proc/meminfo")).ok();
    let machine = machine.as_deref().and_then(total_of_meminfo);
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(|line| limit_of_group(root, line));
    limits.chain(machine).min()
}

fn total_of_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The least limit along one line of `/proc/self/cgroup`: `0::/path` is version 2, `4:memory:/path` version 1.
fn limit_of_group(root: &Path, line: &str) -> Option<u64> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let (mount, file) = if controllers.is_empty() {
        ("sys/fs/cgroup", "memory.max")
    } else if controllers.split(',').any(|name| name == "memory") {
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
    } else {
        return None;
    };
    let mount = root.join(mount);
    let group = mount.join(path.trim_start_matches('/'));
    // Inside a container the path may not exist under the mount; the mount itself is then the group.
    let ancestors = group.ancestors().take_while(|at| at.starts_with(&mount));
    let limits = ancestors.filter_map(|at| fs::read_to_string(at.join(file)).ok());
    limits.filter_map(|limit| limit.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:        8000000 kB\nMemFree:         1000 kB\n";
    const MACHINE: u64 = 8_000_000 * 1024;

    fn system(files: &[(&str, &str)]) -> Option<u64> {
        let root = laid_out(files);
        memory_under(root.path())
    }

    fn laid_out(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn without_a_limit_it_is_the_memory_of_the_machine() {
        assert_eq!(system(&[("proc/meminfo", MEMINFO)]), Some(MACHINE));
        let unlimited = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/system.slice/opencmg.service\n"),
            (
                "sys/fs/cgroup/system.slice/opencmg.service/memory.max",
                "max\n",
            ),
        ];
        assert_eq!(system(&unlimited), Some(MACHINE));
    }

    #[test]
    fn the_least_limit_of_the_control_group_and_its_ancestors_counts() {
        let limited = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/memory.max", "4000000000\n"),
            ("sys/fs/cgroup/a/memory.max", "3000000000\n"),
        ];
        assert_eq!(system(&limited), Some(3_000_000_000));
    }

    #[test]
    fn version_1_of_control_groups_is_read_as_well() {
        let limited = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/1\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2000000000\n"),
        ];
        assert_eq!(system(&limited), Some(2_000_000_000));
    }

    #[test]
    fn a_system_that_does_not_tell_is_unknown() {
        assert_eq!(system(&[]), None);
        assert_eq!(system(&[("proc/meminfo", "nonsense")]), None);
    }
}
