"""What is asked of each row of bench/disk beside its peer, and what a run says of it.

    met     the median of the pairs is as asked, or above
    host    what the host does with a raw image and no machine is less than asked: no VMM can be so much quicker than this peer
    doubt   the median is below, single pairs are not: more pairs decide it (--repeats)
    below   each pair is below
"""
import statistics

SAYS = {'met': 'as asked', 'host': 'the host itself does less than asked', 'doubt': 'in doubt: single pairs are as asked', 'below': 'below in each pair'}


def asked(r):
    """How many times the peer; None: the row is there to be read."""
    if r['row'] in ('over', 'alloc', 'flush'):
        return {'qcow2': 1.5, 'lodgefs': 3}.get(r['format'], 1) if r['label'].startswith('alloc write 4K x64 jumps') else 1
    # Flushes cost the same with the sorter as without.
    return {'guest': 1.5, 'guest-sorter': None if 'sync/' in r['label'] else 3}.get(r['row'])


def verdict(r):
    want = asked(r)
    if r['ratio'] >= want:
        return 'met'
    peer = [v['iops'] for v in list(r['arms'].values())[1]]
    if 'host' in r and statistics.median(r['host']) < want * statistics.median(peer):
        return 'host'
    return 'doubt' if max(r['ratios']) >= want else 'below'


def judge(out):
    """Adds `asked` and `verdict` to the rows, prints the sum of it, and says whether none is below."""
    rows = [r for r in out if asked(r) is not None]
    for r in rows:
        r['asked'], r['verdict'] = asked(r), verdict(r)
    count = {v: sum(r['verdict'] == v for r in rows) for v in SAYS}
    print(f"{len(rows)} rows of which something is asked: " + '; '.join(f'{n} {SAYS[v]}' for v, n in count.items() if n))
    for r in sorted((r for r in rows if r['verdict'] != 'met'), key=lambda r: list(SAYS).index(r['verdict'])):
        print(f"  {r['format']:8s} {r['label']:38s} x{r['ratio']:.2f} ({min(r['ratios']):.2f}..{max(r['ratios']):.2f}), asked {r['asked']}: {SAYS[r['verdict']]}")
    return not count['below']
