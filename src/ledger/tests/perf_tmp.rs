use super::*;
use std::time::Instant;
#[test]
#[allow(clippy::all)]
fn perf() {
    let dir = tempfile::tempdir().unwrap();
    let t = Instant::now();
    let (mut l, _) = Ledger::open(Arc::new(FileStorage::open(dir.path()).unwrap()), &opening(1)).unwrap();
    let recs: Vec<_> = (0..1000).map(|n| record(n, 1024)).collect();
    let t0 = t.elapsed();
    let t = Instant::now();
    for i in 0..100u64 {
        for (r, b) in &recs {
            l.append(&Entry::Observed(r.clone()), b, true).unwrap();
        }
        l.commit().unwrap();
        let _ = i;
    }
    println!("open {t0:?}; append 100k commit per 1000: {:?}", t.elapsed());
    drop(l);
    let t = Instant::now();
    let (mut l, r) = Ledger::open(Arc::new(FileStorage::open(dir.path()).unwrap()), &opening(2)).unwrap();
    println!("replay {} in {:?}", r.entries, t.elapsed());
    let t = Instant::now();
    for (r, b) in &recs {
        l.append(&Entry::Observed(r.clone()), b, true).unwrap();
        l.commit().unwrap();
    }
    println!("1000 single commits {:?}", t.elapsed());
    drop(l);
    let t = Instant::now();
    let (w, _) = crate::cassette::CassetteWriter::open(
        Arc::new(FileStorage::open(dir.path()).unwrap()),
        &opening(3),
        Default::default(),
    )
    .unwrap();
    println!("cassette replay {:?}", t.elapsed());
    let c = w.cassette();
    let t = Instant::now();
    for (r, _) in &recs {
        c.lookup(r.request).unwrap();
    }
    println!("1000 disk lookups {:?}", t.elapsed());
    let t = Instant::now();
    for (r, _) in &recs {
        c.lookup(r.request).unwrap();
    }
    println!("1000 ram lookups {:?}", t.elapsed());
    let rec = crate::cassette::Recorder::start(w, None).unwrap();
    let t = Instant::now();
    std::thread::scope(|s| {
        for k in 0..2u64 {
            let rec = rec.clone();
            let recs = &recs;
            s.spawn(move || {
                for i in 0..5000u64 {
                    let (r, b) = &recs[(i % 1000) as usize];
                    let mut r = r.clone();
                    r.observed_at = k;
                    rec.record(r, vec![b[0].bytes().clone()], |x| assert!(x.is_ok()));
                }
            });
        }
    });
    rec.close().unwrap();
    println!("10000 through the recorder {:?}", t.elapsed());
}
