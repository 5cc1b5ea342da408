"""Task04 and other datasets: fetch, check, convert, synthesise."""
