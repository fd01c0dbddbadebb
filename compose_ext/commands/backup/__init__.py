"""`docker linkwire backup` and `restore`: etcd's signed records, sealed to a key that the user keeps."""
