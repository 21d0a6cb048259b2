create table t(a integer primary key, b integer, c text);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 30000)
	insert into t select i, (i * 7919) % 10007, 'name' || (i % 1000) from n;
create index tb on t(b);
select count(*), sum(a) from t where b between 100 and 5000;
select c, count(*), sum(b) from t group by c order by 3 desc, 1 limit 5;
update t set b = b + 1 where a % 3 = 0;
select sum(x.b) from t x join t y on x.a = y.b where y.a < 20000;
delete from t where c like 'name1%';
select count(*), sum(length(c)) from t;
