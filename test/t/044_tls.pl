# TLS to partitions: a certificate that is good, and all that are not; SCRAM; and
# that nobody learns from an error where keys lie.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";

use LogqTest;
use PostgreSQL::Test::Utils;
use IPC::Run;
use Test::More;

my $dir = "$PostgreSQL::Test::Utils::tmp_check/tls";
my $password = LogqTest::lit($LogqTest::password);
my $count = 'SELECT count(*) FROM logq.logs';

sub openssl
{
	my ($out, $err) = ('', '');

	IPC::Run::run([ 'openssl', @_ ], '>', \$out, '2>', \$err) or die "openssl @_: $err";
	return;
}

sub make_authority
{
	my ($name) = @_;

	openssl(qw(req -new -x509 -nodes -days 30 -newkey rsa:2048), '-subj', "/CN=authority $name",
		'-keyout', "$dir/$name.key", '-out', "$dir/$name.crt");
	return;
}

# Options: for (subjectAltName), by (authority), expired
sub make_certificate
{
	my ($name, $cn, %opt) = @_;
	my $by = $opt{by} // 'ca';
	my $new = "$dir/$name";

	unlink "$new.ext";
	append_to_file("$new.ext", "subjectAltName=$opt{for}\n") if $opt{for};
	append_to_file("$new.ext", "basicConstraints=CA:FALSE\n");
	openssl(qw(req -new -nodes -newkey rsa:2048), '-subj', "/CN=$cn", '-keyout', "$new.key", '-out', "$new.csr");
	if ($opt{expired})
	{
		# only this command takes dates of the past everywhere
		mkdir "$new.d";
		append_to_file("$new.d/index.txt", '');
		append_to_file("$new.d/serial", "01\n");
		append_to_file("$new.cnf", <<"CNF");
[ca]
default_ca = it
[it]
database = $new.d/index.txt
serial = $new.d/serial
new_certs_dir = $new.d
default_md = sha256
policy = any
[any]
commonName = supplied
CNF
		openssl(qw(ca -batch -notext -config), "$new.cnf", '-cert', "$dir/$by.crt", '-keyfile', "$dir/$by.key",
			qw(-startdate 20200101000000Z -enddate 20200201000000Z), '-extfile', "$new.ext", '-in', "$new.csr",
			'-out', "$new.crt");
	}
	else
	{
		openssl(qw(x509 -req -days 30 -CAcreateserial), '-in', "$new.csr", '-CA', "$dir/$by.crt",
			'-CAkey', "$dir/$by.key", '-extfile', "$new.ext", '-out', "$new.crt");
	}
	chmod 0600, "$new.key" or die $!;
	return;
}

mkdir $dir or die $!;
make_authority($_) foreach qw(ca stranger);
make_certificate('good', 'partition', for => 'DNS:localhost');
make_certificate('elsewhere', 'partition', for => 'DNS:other.test');
make_certificate('expired', 'partition', for => 'DNS:localhost', expired => 1);
make_certificate('foreign', 'partition', for => 'DNS:localhost', by => 'stranger');
make_certificate('client', 'logq');
make_certificate('client_foreign', 'logq', by => 'stranger');

my $c = LogqTest->new(partitions => 1, add => 0,
	coordinator_conf => [ "logq.databases = 'logs'", "logq.connect_timeout = '20s'" ]);
my $part = $c->part('p1');

# let in over TLS and by SCRAM alone; $cert is a suffix of clientcert=
sub hba
{
	my ($cert) = @_;

	unlink $part->data_dir . '/pg_hba.conf';
	$part->append_conf('pg_hba.conf',
		"local all all trust\nhostssl all logq 127.0.0.1/32 scram-sha-256" . ($cert ? " clientcert=$cert" : '') . "\n");
	$part->reload;
	return;
}

# the certificate that the partition shows from now on
sub show
{
	my ($name) = @_;
	my $is = "$dir/server";

	# together with the key, so that none is ever read beside another's key
	foreach my $ext (qw(crt key))
	{
		unlink "$is.$ext";
		append_to_file("$is.$ext", slurp_file("$dir/$name.$ext"));
	}
	chmod 0600, "$is.key" or die $!;
	$part->restart;
	return;
}

hba();
$part->append_conf('postgresql.conf', <<"CONF");
listen_addresses = '127.0.0.1'
ssl = on
ssl_ca_file = '$dir/ca.crt'
ssl_cert_file = '$dir/server.crt'
ssl_key_file = '$dir/server.key'
CONF
show('good');

$c->sql(<<"SQL");
CREATE SERVER p1 FOREIGN DATA WRAPPER logq_fdw OPTIONS (host 'localhost', port '@{[ $part->port ]}', dbname 'logs',
	sslmode 'verify-full', sslrootcert '$dir/ca.crt');
CREATE USER MAPPING FOR PUBLIC SERVER p1 OPTIONS (user 'logq', password $password);
CREATE ROLE alice LOGIN IN ROLE logq_reader;
SQL

# the options of the server by name; those that are not given are dropped
sub options
{
	my (%new) = @_;
	my %old = map { split /=/, $_, 2 }
	  split /\n/, $c->sql("SELECT unnest(srvoptions) FROM pg_foreign_server WHERE srvname = 'p1'");
	my @changes = map { ($old{$_} ? 'SET' : 'ADD') . " $_ " . LogqTest::lit($new{$_}) } sort keys %new;

	push @changes, map { "DROP $_" } grep { !/^(host|port|dbname)$/ && !exists $new{$_} } sort keys %old;
	$c->sql('ALTER SERVER p1 OPTIONS (' . join(', ', @changes) . ')');
	return;
}

my %full = (host => 'localhost', sslmode => 'verify-full', sslrootcert => "$dir/ca.crt");

sub works
{
	my ($name, %opt) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$c->gives($count, 100, $name, user => 'alice', %opt);
	return;
}

# The partition is named, what is wrong, and what to do; and no file
sub works_not
{
	my ($name, $reason, $hint) = @_;
	my $r = $c->try($count, user => 'alice');
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	ok($r->{state} =~ /^08/ && $r->{message} =~ /"p1"/ && $r->{err} =~ $reason && $r->{err} =~ /HINT: .*$hint/,
		$name)
	  or diag($r->{err});
	unlike($r->{err}, qr/\Q$dir\E|\.key|\.postgresql|\Q$LogqTest::password\E/, '... and the error names no file')
	  or diag($r->{err});
	return $r;
}

# ---------- what is in order ----------

is($c->sql("SELECT logq.add_partition('p1')"), 1, 'a partition is added over TLS');
$c->sql("INSERT INTO logq.logs (ts, level) SELECT now() - i * interval '1 second', 'INFO' FROM generate_series(1, 100) i");
works('a good certificate');
{
	my $s = $c->session(user => 'alice');

	$s->query("BEGIN; DECLARE c CURSOR FOR SELECT * FROM logq.logs; FETCH 1 FROM c");
	is($c->on('p1', "SELECT count(*) > 0 AND bool_and(ssl AND version LIKE 'TLSv1.%') FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'logq'"),
		't', 'all connections are encrypted, the worker\'s, too');
	$s->quit;
}
LogqTest::poll_ok(sub {
	return $c->sql('SELECT count(*) FROM logq.catalog_status() WHERE confirmed_at IS NOT NULL AND error IS NULL') eq '1';
}, 'the maintenance worker is content');
like($c->on('p1', "SELECT rolpassword FROM pg_authid WHERE rolname = 'logq'"), qr/^SCRAM-SHA-256\$/,
	'the password is kept as SCRAM has it');
options(%full, channel_binding => 'require');
works('SCRAM is bound to the channel');

# ---------- what is not ----------

options(%full, sslrootcert => "$dir/stranger.crt");
works_not('another authority is trusted', qr/certificate verify failed/, 'Check the options sslmode, sslrootcert');
like($c->sql('SELECT state, error FROM logq.partitions'), qr/^down\|.*certificate verify failed/, 'the view says so');
options(%full);
works('the right one again');

show('foreign');
works_not('a certificate of another authority', qr/certificate verify failed/, 'Check the options sslmode, sslrootcert');
show('elsewhere');
works_not('a certificate for another name', qr/server certificate for "other\.test".* does not match host name "localhost"/,
	'Check the options sslmode, sslrootcert and host');
options(%full, sslmode => 'verify-ca');
works('which verify-ca lets pass');
show('expired');
works_not('not one that has expired', qr/certificate verify failed/, '.*certificate of the partition');
options(%full);
works_not('nor does verify-full', qr/certificate verify failed/, '.*certificate of the partition');
show('good');
works('a good one again');

options(%full, sslmode => 'disable');
works_not('without TLS the partition lets nobody in', qr/no encryption/, 'See the view "logq.partitions"');

# ---------- files ----------

options(%full, sslrootcert => "$dir/missing.crt");
works_not('no file with the authority', qr/root certificate file does not exist/, 'Check the options sslmode, sslrootcert');
like(slurp_file($c->coordinator->logfile), qr{root certificate file "\Q$dir\E/missing\.crt" does not exist},
	'the server log names it');
unlike($c->sql('SELECT string_agg(p::text, E\'\n\') FROM logq.stat_partitions p') . $c->sql('SELECT string_agg(p::text, \'\') FROM logq.partitions p')
	  . $c->sql('SELECT string_agg(p::text, \'\') FROM logq.catalog_status() p'), qr/\Q$dir\E/, 'but no view');
options(%full);
works('with it, all is well');

sub mapping_files
{
	my ($name, $key) = @_;

	$c->sql("DROP USER MAPPING FOR PUBLIC SERVER p1; CREATE USER MAPPING FOR PUBLIC SERVER p1 OPTIONS (user 'logq', password $password"
		  . ($name ? ", sslcert '$dir/$name.crt', sslkey '$dir/@{[ $key // $name ]}.key'" : '') . ')');
	return;
}

hba('verify-full');
works_not('the partition wants a certificate', qr/certificate/, 'Check the options');
mapping_files('client');
works('which the user mapping has');
mapping_files('client_foreign');
works_not('one of another authority', qr/certificate|unknown ca/i, '');
mapping_files('client', 'nowhere');
works_not('no such key', qr/private key file/, 'Check the options');
chmod 0644, "$dir/client_foreign.key" or die $!;
mapping_files('client_foreign');
works_not('a key that others can read', qr/private key file has group or world access/, 'Check the options');
like(slurp_file($c->coordinator->logfile), qr{private key file "\Q$dir\E/nowhere\.key"}, 'the server log names keys');
unlike($c->try('SELECT umoptions FROM pg_user_mappings', user => 'alice')->{out}, qr/key|pass/, 'no catalog does');
$c->fails("CREATE SERVER x FOREIGN DATA WRAPPER logq_fdw OPTIONS (sslpassword 'x')", 'HV00D', qr/invalid option/,
	'a server has no password of a key');
mapping_files('client');
works('the right one again');

# ---------- SCRAM ----------

$c->sql("ALTER USER MAPPING FOR PUBLIC SERVER p1 OPTIONS (SET password 'Wr0ngOne')");
unlike(works_not('a wrong password', qr/password authentication failed for user "logq"/, 'Check user and password of the user mapping')->{err},
	qr/Wr0ngOne/, '... nor the password');
unlike(slurp_file($c->coordinator->logfile) =~ s/^.*STATEMENT:.*$//mgr, qr/Wr0ngOne|\Q$LogqTest::password\E/, 'no log holds one');
mapping_files('client');
works('the right one');
done_testing();
