# Words counted and sorted, lines edited, primes.
open(my $f, '<', '/tmp/data') or die;
my (%n, $lines, $sum);
while (<$f>) {
	last if $lines++ > 12000;
	$n{$1}++ while /([a-z]+)/g;
	s/self/this/g;
	$sum += length;
}
my @top = sort { $n{$b} <=> $n{$a} || $a cmp $b } keys %n;
print "$lines $sum ", scalar(@top), " @top[0..9]\n";
my @p = (2);
for (my $i = 3; @p < 2000; $i += 2) {
	my $prime = 1;
	for (@p) {
		last if $_ * $_ > $i;
		if ($i % $_ == 0) { $prime = 0; last }
	}
	push @p, $i if $prime;
}
print "$p[-1]\n";
