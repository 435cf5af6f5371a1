//! Published vectors, and records that two other TLS stacks exchanged.

use super::suite::{Suite, Version};

pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let digit = |b: &u8| (*b as char).to_digit(16).unwrap() as u8;
    digits
        .chunks_exact(2)
        .map(|p| digit(&p[0]) << 4 | digit(&p[1]))
        .collect()
}

/// RFC 8448 §3, "Simple 1-RTT Handshake" (TLS_AES_128_GCM_SHA256).
pub mod rfc8448 {
    pub const CLIENT_HANDSHAKE: &str =
        "b3eddb126e067f35a780b3abf45e2d8f3b1a950738f52e9600746a0e27a55a21";
    pub const CLIENT_HANDSHAKE_KEY: &str = "dbfaa693d1762c5b666af5d950258d01";
    pub const CLIENT_HANDSHAKE_IV: &str = "5bd3c71b836e0b76bb73265f";
    pub const SERVER_HANDSHAKE: &str =
        "b67b7d690cc16c4e75e54213cb2d37b4e9c912bcded9105d42befd59d391ad38";
    pub const SERVER_HANDSHAKE_KEY: &str = "3fce516009c21727d0f2e4e86ee403bc";
    pub const SERVER_HANDSHAKE_IV: &str = "5d313eb2671276ee13000b30";
    pub const CLIENT_TRAFFIC: &str =
        "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5";
    pub const CLIENT_KEY: &str = "17422dda596ed5d9acd890e3c63f5051";
    pub const CLIENT_IV: &str = "5b78923dee08579033e523d9";
    pub const SERVER_TRAFFIC: &str =
        "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643";
    pub const SERVER_KEY: &str = "9f02283b6c9c07efc26bb9f2ac92e356";
    pub const SERVER_IV: &str = "cf782b88dd83549aadf1e984";

    /// Client Finished, sealed with the handshake secret at number 0.
    pub const CLIENT_FINISHED: &str = "1703030035\
        75ec4dc238cce60b298044a71e219c56cc77b0517fe9b93c7a4bfc44d87f38f8\
        0338ac98fc46deb384bd1caeacab6867d726c40546";
    /// Application data 00…31 (hexadecimal), client at 0 and server at 1.
    pub const CLIENT_DATA: &str = "1703030043\
        a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5\
        b46b395bd54a9a20441e2b62974e1f5a6292a2977014bd1e3deae63aeebb2169\
        4915e4";
    pub const SERVER_DATA: &str = "1703030043\
        2e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d\
        90e6dffc602dcb501a59a8fcc49c4bf2e5f0a21c0047c2abf332540dd032e167\
        c2955d";
    /// close_notify, client at 1 and server at 2.
    pub const CLIENT_ALERT: &str = "1703030013c9872760655666b74d7ff1153efd6db6d0b0e3";
    pub const SERVER_ALERT: &str = "1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9";
}

/// TLS 1.2 P_SHA256 and P_SHA384 as published on the IETF's TLS list
/// ("Request for TLS 1.2 PRF test vectors").
pub mod prf {
    pub const LABEL: &[u8] = b"test label";
    pub const SHA256: (&str, &str, &str) = (
        "9bbe436ba940f017b17652849a71db35",
        "a0ba9f936cda311827a6f796ffd5198c",
        "e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a\
         6b301791e90d35c9c9a46b4e14baf9af0fa022f7077def17abfd3797c0564bab\
         4fbc91666e9def9b97fce34f796789baa48082d122ee42c5a72e5a5110fff701\
         87347b66",
    );
    pub const SHA384: (&str, &str, &str) = (
        "b80b733d6ceefcdc71566ea48e5567df",
        "cd665cf6a8447dd6ff8b27555edb7465",
        "7b0c18e9ced410ed1804f2cfa34a336a1c14dffb4900bb5fd7942107e81c83cd\
         e9ca0faa60be9fe34f82b1233c9146a0e534cb400fed2700884f9dc236f80edd\
         8bfa961144c9e8d792eca722a7b32fc3d416d473ebc2c5fd4abfdad05d918425\
         9b5bf8cd4d90fa0d31e2dec479e4f1a26066f2eea9a69236a3e52655c9e9aee6\
         91c8f3a26854308d5eaa3be85e0990703d73e56f",
    );
}

/// A KeyUpdate in both directions between OpenSSL 3.0 and GnuTLS 3.7, from the
/// keylog file: secret 0 and the secret after it.
pub const KEY_UPDATES: [(&str, &str); 4] = [
    (
        "d607e663b37571cc687d9e66da3d0d8c837eeac1bd0186938449805b7f52fd66",
        "dec8f8d97bb9c6509b4992772e5b109f809688502b4ff554ca8fcb875691bd93",
    ),
    (
        "3c616e1c3de0cd41fa64fe5739a0f155df8c3c277ab0fafd35f9310ddd226739",
        "b68a7b34f2056fa26abd3c6188c5fb91cab188d138329e4f5b4f74d104ffa34a",
    ),
    (
        "c66b7103effbb83bdca554b283ba024c2c8fcc289295a1f3b463a0acb37888c6\
         ae86197ef2b24a3fa2670d1c9235dcb7",
        "87492dbd60a2cfd78620fd871f230658afc81318a7a69df96dfaf6ff0ddb42f3\
         aa4d97250625259d653961a9e6bd44cb",
    ),
    (
        "ccb6a8596a3b55b3bd5e1bf1989fcfc98f49791a0f100b0f99bd830988aa3ac3\
         aa6addd7cbd03d84c44fe67702b746e0",
        "f1f56f21eaf601f7fc75f027ae098b4dd76832543cfb6ed115bd547a539e9d46\
         3bbeb83ae764678011c8641991101f38",
    ),
];

/// One connection of an OpenSSL 3.0 client to a GnuTLS 3.7 server that echoes.
pub struct Sample {
    pub version: Version,
    pub id: u16,
    /// Of the ServerHello; for TLS 1.2 only.
    pub server_random: &'static str,
    pub keylog: &'static [&'static str],
    /// What both application records carry.
    pub text: &'static str,
    pub client_finished: &'static str,
    pub client_data: &'static str,
    pub server_finished: &'static str,
    pub server_data: &'static str,
    /// Number of the last record: TLS 1.2 counts Finished, TLS 1.3 tickets.
    pub server_seq: u64,
}

impl Sample {
    pub fn suite(&self) -> Suite {
        Suite::from_id(self.version, self.id).unwrap()
    }
}

pub const SAMPLES: [Sample; 8] = [
    Sample {
        version: Version::Tls12,
        id: 0xc02f,
        server_random: "ca396bf7586de1b5ba2ca4337084af450e1f5ce7bda6962a0989686077213732",
        keylog: &["CLIENT_RANDOM \
             56227dc567f48d6be0761be36c6dcacfe21f4bf2e79df599bf3a3148f3883c69 \
             f3b11e779c925c8fe09e75fcb00a08eace556898725b4881e6b91864a369226b\
             731ebef33bfd23e74fecb25971e57f91"],
        text: "TLSv1.2 AES-128-GCM says hello\n",
        client_finished: "1603030028987eca762c7fc8606d940ff56b17fcd684cd37a185b355a0b499ff\
            2734f81ff1e8673a90e4b37706",
        client_data: "1703030037987eca762c7fc8611ba3946b23ce3b377e7abdacbac21f9b15f199\
            884285fd3f18049aaadc16dfa12e232368ed0cb5390b33c46af30329",
        server_finished: "1603030028000000000000000068a975375c71da3d92aa16acbcbc84ad6a7a26\
            734abcc3737d71d6faec0c0f90",
        server_data: "170303003700000000000000013b32403f37640da9e6cc25ad59320b86af1577\
            5fcf2a2a4794039a3e282b475d5699fda3b0d4bcc074e126e4c6b0df",
        server_seq: 1,
    },
    Sample {
        version: Version::Tls12,
        id: 0xc030,
        server_random: "c8aa0caec26f4c9d4cc05abfefb01f3ea9f70c3480dd6e03aacec3afe559c620",
        keylog: &["CLIENT_RANDOM \
             890d72b31b85626201c7e93786642d82f31159aaaa3e29365d24ef8e788c6e50 \
             e55a139a7b4565f05a4cbd08362867f346401987e714bace97882a4c81536ed1\
             3f939a6789696855f4c1f4c1588f74c5"],
        text: "TLSv1.2 AES-256-GCM says hello\n",
        client_finished: "16030300280d297d3e51bc7900ed2f652acff7ecce80473f8f0a895090498495\
            073773e9305e41dfc7cb7b4e92",
        client_data: "17030300370d297d3e51bc790137422c5e6656deadd63cd87ea8d07e1ea93cd3\
            e204306280e1fcdfe72176637b6260d4057e6bd698d9026cc1a82f33",
        server_finished: "16030300280000000000000000c45a88863f0abbe02bfdb62916747ddbaf6e62\
            d00a392352c8eeb8523fee2aeb",
        server_data: "17030300370000000000000001cf09813677391eed64ef45eeed25a1c65ee62d\
            5d3908ccee895e4f578d773d19d1e71715a820dadac301c71eb3f6ba",
        server_seq: 1,
    },
    Sample {
        version: Version::Tls12,
        id: 0xcca8,
        server_random: "b9c6ea22c1cc665b60a00f9c9273505a2dde4a2e1ad5d4931c8d79fa8108c20e",
        keylog: &["CLIENT_RANDOM \
             811bb4e63c96cfb64a971a99720c575252e0377f8a5ab203ae2b3dee51bcdf25 \
             44da560a414c6ca04f4c43bed4868147237d177f3453854e9058978830a29d11\
             6369d39b8cd416c91c4fe05c1587b233"],
        text: "TLSv1.2 CHACHA20-POLY1305 says hello\n",
        client_finished: "1603030020adbd221c7bb83b3e857bb6b9d115bc8ef79ba364e81f0f7034ecc8\
            773e5f53d9",
        client_data: "17030300355d38a345a2c193244e35e58273bd4a928032674e6d8dd48eb8ad0c\
            18e2e1cc6f359416ee6cb4f16e8b92f2307017e87267c89196ea",
        server_finished: "1603030020d61ba765a7fa64faefe218e15441e34308030ffcb1af67657bd2d6\
            0a8fa3e39b",
        server_data: "17030300355f5b4e97b02d0106a093c507acba076058e7c6ce69a96a94f6e029\
            2cfd359bbfb30614e784cf7d1c54647f37891321a80c55f1e776",
        server_seq: 1,
    },
    Sample {
        version: Version::Tls12,
        id: 0xc09e,
        server_random: "88c01f318afd223bc321198f23ce982b3662339d2c7449e2071b520f47b5167d",
        keylog: &["CLIENT_RANDOM \
             c179d659a193072ddf57fb9f87c90fa4a536e0a3e68572f52468c20e645af084 \
             9eb54562c2730aab039b67b32450fc24196d5a6119156f82baffdad430ac5a4d\
             f3b81b12c06c61d524778b7bdc9b26a6"],
        text: "TLSv1.2 AES-128-CCM says hello\n",
        client_finished: "16030300280000000000000000a7a226510861d4f4efa06b8152887487645bb6\
            d6b4795a51be291a2b425dd0e1",
        client_data: "1703030037000000000000000138fdfce17b64d8af7ad02671bf4fcb59b49c6f\
            20b2db39f685a4f478d777367f60f7007216aae11a2939c0401b5e8c",
        server_finished: "16030300280000000000000000eff6657e95547b3d5bcdce3c445a4dc3f3904c\
            9687ad0cbbbbb2fc33837c88dd",
        server_data: "1703030037000000000000000172b2d57fb2cc1e7b1935c3bffcab74205b1af0\
            129059e0d6f4f32b9201d178236e4f223c960ce213db1d87ecce190c",
        server_seq: 1,
    },
    Sample {
        version: Version::Tls13,
        id: 0x1301,
        server_random: "",
        keylog: &[
            "SERVER_HANDSHAKE_TRAFFIC_SECRET \
             83687c422153610fad8a3163b3924513af8f47d754dada58696816fcfaa74dd4 \
             13aa098cb16b7bfdbc02cf2bbcc85beabb009bb33c08aa8f17393b0bf4fea16b",
            "SERVER_TRAFFIC_SECRET_0 \
             83687c422153610fad8a3163b3924513af8f47d754dada58696816fcfaa74dd4 \
             9da18fff2344f0829abf23dc1434ce7ac360ddc55e0ddd6801f363bb24376fa0",
            "CLIENT_HANDSHAKE_TRAFFIC_SECRET \
             83687c422153610fad8a3163b3924513af8f47d754dada58696816fcfaa74dd4 \
             bcd40e2a84a51ecbdfb835570bb23395da7e6b04739ed684c0d91599b7c9dadc",
            "CLIENT_TRAFFIC_SECRET_0 \
             83687c422153610fad8a3163b3924513af8f47d754dada58696816fcfaa74dd4 \
             a3767b3d49c4daa7b472934f27b8c65070fadb80532add7c61f424ec58ee2c00",
        ],
        text: "TLSv1.3 AES-128-GCM says hello\n",
        client_finished: "17030300357d6d9affdc6aa4cafefda522ec6ace0c36a8beb194f9e126b9aa94\
            5c9ad211efa2807d88ac25361ea015fcbdebb64d861f3898322c",
        client_data: "1703030030a9ee0c9ee297d01e1a5f9879f9806c3e6128b6d80be92000085623\
            6e92ec111e45348ab46545fe78ffd42bdeb26f5ba3",
        server_finished: "1703030035579f08750e35224b587ebfe66abb274ce33c9f8f0cdb7514fd266b\
            3d2d32ba0c61e2c08f2f184ab82983b20ab30f09a25e668aac95",
        server_data: "17030300307fa93065b23df9ac1971602fdb755191b7d4ee866fea10c487e845\
            3e9043328272accf93693e27e750076685bfbf00b5",
        server_seq: 2,
    },
    Sample {
        version: Version::Tls13,
        id: 0x1302,
        server_random: "",
        keylog: &[
            "SERVER_HANDSHAKE_TRAFFIC_SECRET \
             a79f69ddb9f9e483a01bc2c5ee0126b597d8ef555b3b70ceffc7d2ff0af26380 \
             40b9a53e8ba468ad14fabf5f86f3ae11246ed2c7155830b57d6756a216063b9e\
             652b4c3c988ced9c7916573f899fcb30",
            "SERVER_TRAFFIC_SECRET_0 \
             a79f69ddb9f9e483a01bc2c5ee0126b597d8ef555b3b70ceffc7d2ff0af26380 \
             37aad6fac018a5e5fff48522652d7797be3858ad076647f9446f1fe3746f8af6\
             2bcbe594698d46f16c602f0b0a1e3a8e",
            "CLIENT_HANDSHAKE_TRAFFIC_SECRET \
             a79f69ddb9f9e483a01bc2c5ee0126b597d8ef555b3b70ceffc7d2ff0af26380 \
             cccab427f5aed5ad3c7a0fa3a45e82515220a086a01fbfe3bce723cd75d249c3\
             6e46d56128d0d3d3ea32390199766fb8",
            "CLIENT_TRAFFIC_SECRET_0 \
             a79f69ddb9f9e483a01bc2c5ee0126b597d8ef555b3b70ceffc7d2ff0af26380 \
             10c413c1273c0258279462e78e4db03b219c9902a716ea4700bca238c043d008\
             d3f910633b64f3a9468e074c8c0b7ee2",
        ],
        text: "TLSv1.3 AES-256-GCM says hello\n",
        client_finished: "1703030045ae707a5626ffcbb16566609d038de6e54ac81a8fb8288798144795\
            6637ade8b20c9686be9112f943890734fb666c14f96d6a45985241e8ea4107e2\
            3495472b52c5cbce7ab7",
        client_data: "1703030030c319eb8b4ce506953b22191dc02f405c1883595eb5bc65425cf78e\
            b7740f3800c0092a82e4bcee9a0fe5a0f68aed23d8",
        server_finished: "1703030045fba5eae05e9e43486eeae9478d15dbb68da42e52e93d73ab88f784\
            1ddbdb7d9e4d33768d9bb37d9d6e1ba43c48f386342e8950d9bab7b0084970d7\
            cbc6f4dfbe7d8fb6ab07",
        server_data: "1703030030a66917891bb053b540298c6670c96e105b8afeb57db017f279b544\
            1b82c166ef5e2ca698b6433c69daa63cd342c40a0a",
        server_seq: 2,
    },
    Sample {
        version: Version::Tls13,
        id: 0x1303,
        server_random: "",
        keylog: &[
            "SERVER_HANDSHAKE_TRAFFIC_SECRET \
             ba3f03467f1ef4721e8f2dd9245e7a6d3d986e815f522eb43548ff367c9a4160 \
             a30b3b078736f56db065ddc4b543d546df8302f604decf732daa7b2d9a8815db",
            "SERVER_TRAFFIC_SECRET_0 \
             ba3f03467f1ef4721e8f2dd9245e7a6d3d986e815f522eb43548ff367c9a4160 \
             cf74dc24b9a8306ae63e71a0938ce1df82efedab4b67aa63755d1cd6a7607379",
            "CLIENT_HANDSHAKE_TRAFFIC_SECRET \
             ba3f03467f1ef4721e8f2dd9245e7a6d3d986e815f522eb43548ff367c9a4160 \
             e1797537fddf356aceb4c34cba710fdf97f725922a7e3b2127989d8f8300fdf3",
            "CLIENT_TRAFFIC_SECRET_0 \
             ba3f03467f1ef4721e8f2dd9245e7a6d3d986e815f522eb43548ff367c9a4160 \
             750f35f1f26b1d28ec7bab490d9c46ba7529f24ee197bfee2e3d82f2d1016f81",
        ],
        text: "TLSv1.3 CHACHA20-POLY1305 says hello\n",
        client_finished: "1703030035c00b323eb2944a88f728881f97ef14974f9272f61ebeb0cfe908dc\
            a9ea7eeaf30392d68e402a005fbbd857339aed5bdceba91f1e27",
        client_data: "1703030036ea15cef23406003178790cf4e065ae0260e84730020e4cb4b3eaa5\
            de9c188cecfe51d54d0740dd8c590c503fdfcd777eaa45fa57a1d9",
        server_finished: "1703030035663949ce396c1ca6ecb8abe1d90e06fc0f1135a2911c4b1bd58f77\
            2b904702af198e43b319e9cd5b3c3a874a751a021a92995e51e5",
        server_data: "1703030036fc72d6d5bde2abbbdac51a502a6324b4a55c826c1bf1751c009804\
            4580d2eccb72266c3974b7eaf241c2b774dc2e06982002eb5fb62f",
        server_seq: 2,
    },
    Sample {
        version: Version::Tls13,
        id: 0x1304,
        server_random: "",
        keylog: &[
            "SERVER_HANDSHAKE_TRAFFIC_SECRET \
             f62937f7a9d540b131213500e5936177fd262df3b6d1135e7dc76e8c531b7f74 \
             6aaacc5e3e60670689a89e04b7f1f07b29bb60bb448b0323d5d37ee504586c69",
            "SERVER_TRAFFIC_SECRET_0 \
             f62937f7a9d540b131213500e5936177fd262df3b6d1135e7dc76e8c531b7f74 \
             2a96971dd14be85d7ff2298c13e3188248eece7d45f6b0cdebbc6b9fbecf2752",
            "CLIENT_HANDSHAKE_TRAFFIC_SECRET \
             f62937f7a9d540b131213500e5936177fd262df3b6d1135e7dc76e8c531b7f74 \
             293a7ceb86ac668899ec15640d1539118f0b476b2d94ed1703a131cd01a5d5e7",
            "CLIENT_TRAFFIC_SECRET_0 \
             f62937f7a9d540b131213500e5936177fd262df3b6d1135e7dc76e8c531b7f74 \
             535bffb379a11c278383dd014677e5f806f02e40f30c848180cf96d48100e40f",
        ],
        text: "TLSv1.3 AES-128-CCM says hello\n",
        client_finished: "1703030035a3b1c37a41c5d7ee6e5533d0950691119c11c66cf120e68e071328\
            03a81a42b554635eb36ed1a757eb987f2c506153fd47e888440b",
        client_data: "170303003045f17beae1b678e781b385bd037bbfd2c4133268924fb04f7f73b2\
            5d8c88ad62a6c991ab6d5996bd86f27ec90025e30d",
        server_finished: "1703030035f6e0ddb116899ab5408a32137330f93953453a95d278c3bc905ef4\
            3bc47cb958d1cecc9dfde5935738fcdf15ba50a0405a2a6d1109",
        server_data: "1703030030d7a772d51a78372f99832a9e20521d17fe955199f29743dd63826f\
            1c7e7e8c72d34ed8919f0daacedea2440e889aea98",
        server_seq: 2,
    },
];
