# Prometheus and prometheus-postgres-exporter of a test, as Debian has them, with
# the configuration in monitoring/prometheus, which this makes quicker and leads
# to ports of their own on 127.0.0.1.
#
#	my $p = LogqPrometheus->new(coordinator => $node);
#	$p->exporter->stop; $p->exporter->start;
#	$p->scrape;						# what the exporter says
#	$p->query('logq_queries_total');	# a list of { metric => {...}, value => 1 }
#	$p->alerts;						# of those that fire: "name label=value ..."
#
#	LogqPrometheus::samples($text)		# name{label="value"} => number
#	LogqPrometheus::help($text)		# name => [ type, help ]
#
# All of them end when the test does, however that comes.

package LogqPrometheus;

use strict;
use warnings;

use Carp;
use File::Temp;
use HTTP::Tiny;
use JSON::PP ();
use LogqTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

our $folder = 'monitoring/prometheus';

sub new
{
	my ($class, %opt) = @_;
	my $dir = File::Temp::tempdir('logqXXXXXX', TMPDIR => 1, CLEANUP => 1);
	my $self = bless {
		dir => $dir,
		port => PostgreSQL::Test::Cluster::get_free_port(),
		exporter_port => PostgreSQL::Test::Cluster::get_free_port(),
		http => HTTP::Tiny->new(timeout => 20)
	  },
	  $class;
	my $node = $opt{coordinator};
	my $default = slurp_file("$folder/postgres-exporter.default");

	croak "$folder/postgres-exporter.default is not as expected"
	  unless $default =~ s{host=/run/postgresql dbname=logs}{"host=" . $node->host . " port=" . $node->port . " dbname=logs"}e
	  && $default =~ s{/etc/prometheus/logq-queries\.yaml}{$folder/queries.yaml}
	  && $default =~ s{127\.0\.0\.1:9187}{127.0.0.1:$self->{exporter_port}};
	put("$dir/default", $default);

	# Quicker.  The exporter takes a second to find that a server is down.
	my $config = slurp_file("$folder/prometheus.yml");
	my $alerts = slurp_file("$folder/alerts.yml");

	croak "$folder/prometheus.yml is not as expected"
	  unless $config =~ s/(scrape_interval|evaluation_interval): 15s/$1: 2s/g == 2
	  && $config =~ s/scrape_timeout: 10s/scrape_timeout: 2s/
	  && $config =~ s/'127\.0\.0\.1:9187'/'127.0.0.1:$self->{exporter_port}'/;
	$alerts =~ s/for: \d+m/for: 1s/g;
	put("$dir/prometheus.yml", $config);
	put("$dir/alerts.yml", $alerts);

	# as its unit does
	$self->{exporter} = LogqPrometheus::Process->new('exporter', 'sh', '-c',
		"set -a; . $dir/default; exec prometheus-postgres-exporter \$ARGS");
	$self->{server} = LogqPrometheus::Process->new('prometheus', 'prometheus',
		"--config.file=$dir/prometheus.yml", "--storage.tsdb.path=$dir/data",
		"--web.listen-address=127.0.0.1:$self->{port}");
	$self->{exporter}->start;
	LogqTest::poll(sub { return defined $self->scrape; }, 30)
	  or croak "the exporter does not start: see $self->{exporter}{log}";
	$self->{server}->start;
	LogqTest::poll(sub { return defined $self->get($self->url('/-/ready')); }, 30)
	  or croak "Prometheus does not start: see $self->{server}{log}";
	return $self;
}

sub put
{
	my ($file, $text) = @_;

	open my $f, '>', $file or croak "$file: $!";
	print $f $text;
	close $f or croak "$file: $!";
	return;
}

sub dir { return $_[0]->{dir}; }
sub exporter { return $_[0]->{exporter}; }
sub server { return $_[0]->{server}; }
sub url { return "http://127.0.0.1:$_[0]->{port}$_[1]"; }

sub get
{
	my ($self, $url) = @_;
	my $r = $self->{http}->get($url);

	return $r->{success} ? $r->{content} : undef;
}

sub scrape
{
	my ($self) = @_;

	return $self->get("http://127.0.0.1:$self->{exporter_port}/metrics");
}

# The member "data" of what the API says; undef when it says no
sub api
{
	my ($self, $path, %arguments) = @_;
	my $json = $self->get($self->url("/api/v1/$path?") . $self->{http}->www_form_urlencode(\%arguments));
	my $r = defined $json ? JSON::PP::decode_json($json) : {};

	return ($r->{status} // '') eq 'success' ? $r->{data} : undef;
}

sub query
{
	my ($self, $expression) = @_;
	my $data = $self->api('query', query => $expression) // croak "Prometheus does not take $expression";

	return map { { metric => $_->{metric}, value => $_->{value}[1] } } @{ $data->{result} };
}

# As samples() has them, without what Prometheus and the exporter have added
sub all_samples
{
	my ($self) = @_;

	return { map { sample_key($_->{metric}) => $_->{value} } $self->query('{__name__=~"logq_.+"}') };
}

sub sample_key
{
	my ($metric) = @_;
	my %labels = %$metric;
	my $name = delete $labels{__name__};

	delete @labels{qw(job instance server)};
	return $name . '{' . join(',', map { "$_=" . JSON::PP->new->allow_nonref->encode($labels{$_}) }
		grep { $labels{$_} ne '' } sort keys %labels) . '}';
}

# Alerts that fire, sorted: "LogqPartitionDown partition=p2"
sub alerts
{
	my ($self) = @_;
	my $data = $self->api('alerts') // return ('Prometheus does not answer');
	my @alerts;

	foreach my $alert (grep { $_->{state} eq 'firing' } @{ $data->{alerts} })
	{
		my %labels = %{ $alert->{labels} };
		my $name = delete $labels{alertname};

		delete @labels{qw(job instance server severity)};
		push @alerts, join ' ', $name, map { "$_=$labels{$_}" } sort keys %labels;
	}
	return sort @alerts;
}

# ---------- the text format ----------

sub samples
{
	my ($text) = @_;
	my %samples;

	foreach my $line (grep { /^logq_/ } split /\n/, $text)
	{
		my ($name, $labels, $value) = $line =~ /^(\w+)(?:\{(.*)\})? (\S+)$/
		  or croak "this is no sample: $line";
		my %labels = (__name__ => $name);

		while (defined $labels && $labels =~ /\G,?(\w+)="((?:[^"\\]|\\.)*)"/gc)
		{
			my ($key, $v) = ($1, $2);

			$v =~ s/\\(.)/$1 eq 'n' ? "\n" : $1/ge;
			utf8::decode($v);
			$labels{$key} = $v;
		}
		$samples{ sample_key(\%labels) } = $value;
	}
	return \%samples;
}

sub help
{
	my ($text) = @_;
	my %help;

	foreach (split /\n/, $text)
	{
		$help{$1}[1] = $2 if /^# HELP (logq_\w+) (.*)/;
		$help{$1}[0] = $2 if /^# TYPE (logq_\w+) (.*)/;
	}
	return \%help;
}

# ---------------------------------------------------------------------
# A program that runs until it is stopped, or until the test ends
# ---------------------------------------------------------------------

package LogqPrometheus::Process;

use strict;
use warnings;

use Carp;
use POSIX ();

my @running;

sub new
{
	my ($class, $name, @command) = @_;

	return bless {
		name => $name,
		command => \@command,
		log => "$PostgreSQL::Test::Utils::tmp_check/log/$name.log",
		owner => $$
	}, $class;
}

# None of the test's environment: the exporter cannot stand PGSERVICEFILE
sub start
{
	my ($self) = @_;

	croak "$self->{name} runs" if $self->{pid};
	$self->{pid} = fork() // croak "fork: $!";
	if ($self->{pid} == 0)
	{
		open STDIN, '<', '/dev/null';
		open STDOUT, '>>', $self->{log};
		open STDERR, '>&', \*STDOUT;
		%ENV = (PATH => '/usr/local/bin:/usr/bin:/bin');
		exec 'setpriv', '--pdeathsig', 'KILL', '--', @{ $self->{command} }
		  or POSIX::_exit(127);
	}
	push @running, $self;
	return;
}

sub stop
{
	my ($self) = @_;

	return unless $self->{pid};
	kill 'KILL', $self->{pid};
	waitpid $self->{pid}, 0;
	$self->{pid} = undef;
	@running = grep { $_ != $self } @running;
	return;
}

END
{
	my $status = $?;

	# a copy of the list, from which each takes itself out
	my @ours = grep { $_->{owner} == $$ } @running;

	$_->stop foreach @ours;
	$? = $status;
}

1;
