//! A token and the key that verifies it, for tests and the fuzz target.

/// A time before the tokens of the tests expire, Unix time in seconds.
pub(crate) const NOW: i64 = 1_800_000_000;
/// The modulus of an RSA key of 2,048 bits; the exponent is 65537.
pub(crate) const RSA_MODULUS: &str = "\
    us7TvJnITRbyzXHTb9L0SVfMbLOO0-jo54H_ShkO62kRez7uajdvjyXw258p4qvUskVvDvIfU9k4hQbUv5bEhil_GfRJgo69Spqd\
    VehKvRqIWy026ENyCa3OQnoefBCEa_1FKKZL0ETbipQlQV6GzygelNcodukhprs2B3okkE4U2jCmzkNcEak-Oqr_wkBs267MMTdv\
    ukHVawewOtb9vYrJmrw9EmEgxvOk2EXncbxKjdhHLikMNqyBaC-ood_ZQCTEi_4tUu_XksFXETR2FLfn2b5EU3WW4JpRoqZa6UEV\
    AU5k8UQibPWC6TspJ_ZNKGYX3vNVZ7DiSuI1FMoWTQ";
/// A token that the RSA key has signed: `kid` is `rsa`, `name` is `camera`, `exp` is 2000000000.
pub(crate) const RSA_TOKEN: &str = "\
    eyJhbGciOiJSUzI1NiIsImtpZCI6InJzYSJ9.eyJuYW1lIjoiY2FtZXJhIiwiZXhwIjoyMDAwMDAwMDAwfQ.WpgTTdO1VPoq8RJS\
    iqRZiozkh10yxn5CsnDVFRUBW7L6209MDKPZuGrZ9XclfRfSvp64WbaNGI90TQ9jGinWQQam2owCHrJNV95NstVB23_S6ewUa2Me\
    QI-hAyr83IGQhoRSd7mKvusWjj62xkGeX0qfUrwSRPZMy1R3P1HhF3Wd3QK9gRpqBrQdxQwxIOHBRepdiFmPA4-xmZuYfnrQypW5\
    5fgmxrhkFjw-GZ10IpdZ2-iUIpqrm9hk9UxFjaQpfXVjUR2ZkBy1R8tbodnNzrVtgEmzo-NCI3UL20F7Zeuq43yDrwJ1WRbPvY7i\
    X1uWBN2m_RFV9hxzGeuWeMTUCw";
