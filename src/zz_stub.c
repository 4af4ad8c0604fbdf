#include "postgres.h"
#include "admission.h"
void logq_connection_counts(Oid serverid, int *open, int *waiting)
{ *open = 0; *waiting = 0; }
