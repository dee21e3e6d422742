use super::content::PAGE;
use super::*;

fn write(disk: &CrashDisk, path: &str, bytes: &[u8]) -> Arc<dyn DiskFile> {
    let path = Path::new(path);
    let file = if disk.exists(path).unwrap() { disk.open(path) } else { disk.create(path) }.unwrap();
    file.write_at(&[IoSlice::new(bytes)], 0).unwrap();
    file
}

fn read(disk: &CrashDisk, path: &str) -> Option<Vec<u8>> {
    let file = disk.open_read(Path::new(path)).ok()?;
    let mut bytes = vec![0; file.len().unwrap() as usize];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    Some(bytes)
}

fn drop_all(_: &Unsynced) -> Keep {
    Keep::Drop
}

fn keep_all(_: &Unsynced) -> Keep {
    Keep::Keep
}

fn fault(on: FaultOn, errno: i32) -> Fault {
    Fault { on, path_contains: String::new(), skip: 0, times: 1, errno }
}

#[test]
fn what_was_synced_survives_a_crash_and_what_was_not_may_go() {
    let disk = CrashDisk::new();
    let file = write(&disk, "/a", b"one");
    file.sync_data().unwrap();
    assert_eq!(read(&disk.crash(&mut drop_all), "/a"), None, "the name was not synced");
    disk.sync_dir(Path::new("/")).unwrap();
    write(&disk, "/a", b"two and more");
    assert_eq!(read(&disk.crash(&mut drop_all), "/a"), Some(b"one".to_vec()));
    assert_eq!(read(&disk.crash(&mut keep_all), "/a"), Some(b"two and more".to_vec()));
    assert_eq!(read(&disk.kill(), "/a"), Some(b"two and more".to_vec()));
    file.sync_data().unwrap();
    assert_eq!(read(&disk.crash(&mut drop_all), "/a"), Some(b"two and more".to_vec()));
}

#[test]
fn unsynced_pages_survive_in_any_order_and_may_be_torn_at_sectors() {
    let disk = CrashDisk::new();
    let file = write(&disk, "/a", &[1; 3 * PAGE]);
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    write(&disk, "/a", &[2; 3 * PAGE]);
    let after = disk.crash(&mut |what| match what {
        Unsynced::Page { page: 0, .. } => Keep::Drop,
        Unsynced::Page { page: 1, .. } => Keep::Torn(0b10),
        _ => Keep::Keep,
    });
    let mut want = [vec![1; PAGE + 512], vec![2; 512], vec![1; PAGE - 1024], vec![2; PAGE]].concat();
    assert_eq!(read(&after, "/a"), Some(want.clone()));
    // The survivor is synced, and lives apart from the original.
    write(&disk, "/a", &[3; 10]);
    want[..2].copy_from_slice(&[9, 9]);
    write(&after, "/a", &[9, 9]);
    assert_eq!(read(&after.crash(&mut keep_all), "/a"), Some(want));
}

#[test]
fn a_length_may_survive_without_its_pages() {
    let disk = CrashDisk::new();
    write(&disk, "/a", &[7; 2 * PAGE + 100]);
    disk.sync_dir(Path::new("/")).unwrap();
    let after = disk.crash(&mut |what| if matches!(what, Unsynced::Page { .. }) { Keep::Drop } else { Keep::Keep });
    assert_eq!(read(&after, "/a"), Some(vec![0; 2 * PAGE + 100]));
    let after =
        disk.crash(&mut |what| if matches!(what, Unsynced::Length { .. }) { Keep::Torn(4) } else { Keep::Keep });
    assert_eq!(read(&after, "/a"), Some(vec![7; PAGE + 48]));
}

#[test]
fn stores_through_a_writable_mapping_are_unsynced_until_the_file_is_synced() {
    let disk = CrashDisk::new();
    let file = write(&disk, "/a", &[0; 2 * PAGE]);
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    let map = file.map(100 << 20, true).unwrap();
    // SAFETY: within the file, and this thread alone uses it.
    unsafe { map.as_mut_ptr().add(PAGE).write(5) };
    assert_eq!(read(&disk, "/a").unwrap()[PAGE], 5);
    assert_eq!(read(&disk.crash(&mut drop_all), "/a").unwrap()[PAGE], 0);
    assert_eq!(read(&disk.kill(), "/a").unwrap()[PAGE], 5);
    file.sync_data().unwrap();
    assert_eq!(read(&disk.crash(&mut drop_all), "/a").unwrap()[PAGE], 5);
}

#[test]
fn a_rename_happens_whole_or_not_at_all_and_only_after_what_it_builds_on() {
    let disk = CrashDisk::new();
    write(&disk, "/a", b"old").sync_data().unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    write(&disk, "/a.tmp", b"new").sync_data().unwrap();
    disk.rename(Path::new("/a.tmp"), Path::new("/a")).unwrap();
    for choices in 0..4u32 {
        let mut asked = 0;
        let after = disk.crash(&mut |_| {
            asked += 1;
            if choices & asked != 0 { Keep::Keep } else { Keep::Drop }
        });
        let names = (read(&after, "/a"), read(&after, "/a.tmp"));
        match choices {
            3 => assert_eq!(names, (Some(b"new".to_vec()), None)),
            1 => assert_eq!(names, (Some(b"old".to_vec()), Some(b"new".to_vec()))),
            _ => assert_eq!(names, (Some(b"old".to_vec()), None)),
        }
    }
    disk.sync_dir(Path::new("/")).unwrap();
    assert_eq!(read(&disk.crash(&mut drop_all), "/a"), Some(b"new".to_vec()));
}

#[test]
fn independent_names_survive_in_any_order_and_removed_files_may_come_back() {
    let disk = CrashDisk::new();
    write(&disk, "/a", b"a").sync_data().unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk.remove_file(Path::new("/a")).unwrap();
    disk.create_dir_all(Path::new("/d/e")).unwrap();
    write(&disk, "/d/e/f", b"f").sync_data().unwrap();
    let after = disk.crash(&mut |what| match what {
        Unsynced::Name { change } if change == "remove /a" => Keep::Drop,
        _ => Keep::Keep,
    });
    assert_eq!((read(&after, "/a"), read(&after, "/d/e/f")), (Some(b"a".to_vec()), Some(b"f".to_vec())));
    disk.sync_dir(Path::new("/d/e")).unwrap();
    assert!(!disk.crash(&mut drop_all).exists(Path::new("/d")).unwrap(), "its parents' names were not synced");
    disk.rename(Path::new("/d/e"), Path::new("/g")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    let after = disk.crash(&mut drop_all);
    assert_eq!((read(&after, "/a"), read(&after, "/g/f")), (None, Some(b"f".to_vec())));
    after.remove_dir_all(Path::new("/g")).unwrap();
    assert_eq!(after.list(Path::new("/")).unwrap().len(), 1);
}

#[test]
fn after_a_failed_sync_the_cache_shows_what_the_medium_never_gets() {
    let disk = CrashDisk::new();
    let file = write(&disk, "/a", &[1; 2 * PAGE]);
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    write(&disk, "/a", &[2; PAGE]);
    disk.inject(fault(FaultOn::Sync, libc::EIO));
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(libc::EIO));
    file.sync_data().unwrap();
    assert_eq!(read(&disk, "/a").unwrap()[0], 2);
    let mut uncached = [0; 2];
    file.read_at_uncached(&mut uncached, PAGE as u64 - 1).unwrap();
    assert_eq!(uncached, [1, 1]);
    assert_eq!(read(&disk.crash(&mut keep_all), "/a").unwrap(), vec![1; 2 * PAGE]);
    // Written again, it is dirty again.
    write(&disk, "/a", &[3]);
    file.sync_data().unwrap();
    assert_eq!(read(&disk.crash(&mut drop_all), "/a").unwrap()[..2], [3, 2]);
}

#[test]
fn faults_hit_what_they_name_after_what_they_skip() {
    let disk = CrashDisk::new();
    let file = write(&disk, "/log-1", b"12345678");
    disk.inject(Fault { path_contains: "log".into(), skip: 1, times: 2, ..fault(FaultOn::Write, libc::EIO) });
    write(&disk, "/other", b"x");
    write(&disk, "/log-1", b"ab");
    assert!(file.write_at(&[IoSlice::new(b"WXYZ")], 4).is_err());
    assert!(file.zero_ahead(8, 8).is_err());
    write(&disk, "/log-1", b"c");
    assert_eq!(read(&disk, "/log-1").unwrap(), b"cb34WX78\0\0\0\0", "half of a failed write is there");
    disk.inject(fault(FaultOn::Read, libc::EIO));
    assert!(file.read_at(&mut [0; 1], 0).is_err());
    disk.inject(fault(FaultOn::Name, libc::EIO));
    assert!(disk.remove_file(Path::new("/other")).is_err());
    assert!(disk.exists(Path::new("/other")).unwrap());
}

#[test]
fn every_operation_is_counted_and_observed_and_the_disk_stops_when_told() {
    let disk = CrashDisk::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    disk.observe(move |disk, n| log.lock().push((n, disk.crash(&mut keep_all).list(Path::new("/")).unwrap().len())));
    let file = write(&disk, "/a", b"1");
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk.create(Path::new("/b")).unwrap();
    assert_eq!(*seen.lock(), [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2)]);
    assert_eq!(disk.operations(), 5);
    disk.unobserve();
    disk.fail_after(1);
    file.write_at(&[IoSlice::new(b"2")], 0).unwrap();
    assert!(file.write_at(&[IoSlice::new(b"3")], 0).is_err());
    assert!(file.sync_data().is_err());
    assert_eq!(read(&disk, "/a"), Some(b"2".to_vec()));
}

#[test]
fn a_full_disk_refuses_to_grow_but_not_to_overwrite() {
    let disk = CrashDisk::new();
    disk.set_capacity(Some(100));
    let file = write(&disk, "/a", &[1; 60]);
    let error = file.zero_ahead(60, 41).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    file.write_at(&[IoSlice::new(&[2; 60])], 0).unwrap();
    assert_eq!(disk.space(Path::new("/")).unwrap(), Space { total_bytes: 100, available_bytes: 40 });
    disk.remove_file(Path::new("/a")).unwrap();
    write(&disk, "/b", &[1; 100]);
}

#[test]
fn a_directory_has_one_holder_until_it_is_dropped_or_the_process_dies() {
    let disk = CrashDisk::new();
    disk.create_dir_all(Path::new("/d")).unwrap();
    let lock = disk.lock_dir(Path::new("/d")).unwrap();
    assert_eq!(disk.lock_dir(Path::new("/d")).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    disk.kill().lock_dir(Path::new("/d")).unwrap();
    drop(lock);
    disk.lock_dir(Path::new("/d")).unwrap();
}
