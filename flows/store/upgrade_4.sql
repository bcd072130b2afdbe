-- From version 3 to 4.

-- Whether its chunk saw enough of an object to report it. What an older version stored, it reported: null.
alter table tracklets add column confirmed boolean;
