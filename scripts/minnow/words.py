"""Words typed for the data generator: common English words, names and things. No third-party list was used."""

COMMON = """
able about above accept across act action active actor add address adult advice afraid after again age agree air airport alarm album alive
allow almost alone along already also always amount anchor angel anger angle angry animal ankle answer ant any apart apple april apron arch
area arm army around arrive arrow art ask asleep atom attack attic aunt autumn awake away baby back bacon bad bag bake baker balance ball
balloon banana band bank barn barrel basket bath battery beach bean bear beard beat beautiful bed bedroom bee beef before begin behind believe
bell below belt bench berry beside best better between bicycle big bird birthday biscuit bitter black blanket blind block blood blossom blue
board boat body bone book boot border bored borrow bottle bottom bowl box boy brain branch brave bread break breakfast breath brick bridge
bright bring broken broom brother brown brush bubble bucket build building bull burn bus bush business busy butter butterfly button buy cabbage
cabin cable cactus cage cake calendar calf call calm camel camera camp candle candy cannon canoe capital captain car card care carpet carrot
carry cart castle cat catch cattle cave ceiling celery center century cereal chain chair chalk chance change chapter cheap check cheek cheese
cherry chess chest chicken child chimney chin chocolate choose church circle circus city class clean clear clever cliff climb clock close cloth
cloud clown club coach coal coast coat coconut coffee coin cold collar collect college color comb come comfort committee common company compass
computer cook cookie copper copy coral corn corner correct cotton couch cough count country courage cousin cover cow crab crack cradle crane
crash crayon cream creature creek cricket crocodile crop cross crowd crown cruel crumb crust cry cub cucumber cup cupboard curious curtain curve
cushion customer cut cycle daisy damp dance danger dark date daughter dawn day dead deaf dear december decide deep deer delicious dentist depend
desert desk dessert detective diamond dictionary different difficult dig dinner dinosaur dirty discover dish distance dive doctor dog doll dollar
dolphin donkey door dot double dough dove down dozen dragon draw drawer dream dress drill drink drive driver drop drum dry duck dull dust duty
eager eagle ear early earn earth east easy eat echo edge effort egg eight elbow electric elephant eleven embarrass empty end enemy energy engine
engineer enjoy enormous enough enter entrance envelope equal escape evening event every exact example excellent except exercise exit expect
expensive explain explore eye face fact factory fair fairy faith fall false family famous farm farmer fast father favorite fear feather february
feed feel fence fern ferry fever few field fifteen fifty fig fight fill film final find finger finish fire fireplace first fish five flag flame
flash flat flavor flee float flood floor flour flower flute fly foam fog fold follow food foot football forest forget fork form fort forty forward
fossil found fountain four fox frame free freedom freeze fresh friday friend frog from front frost frozen fruit full fun funny fur furniture future
galaxy game garage garden garlic gate gather gentle ghost giant gift ginger giraffe girl give glad glass glove glue goal goat gold golden goose
government grain grandfather grandmother grape grapefruit grass gravel gravity gray great green greet grey grocery ground group grow guard guess
guest guide guitar gum habit hail hair half hall ham hammer hand handle happen happy harbor hard harvest hat hate have hawk hay head heal health
heart heat heaven heavy hedge height helicopter hello helmet help hen herb here hero hidden hide high hill hippopotamus history hobby hold hole
holiday hollow home honest honey hook hope horn horse hospital host hotel hour house huge human hundred hungry hunt hurry hurt husband ice icicle
idea imagine immediately important inch information ink insect inside interesting into invite iron island ivory jacket jaguar jail jam january jar
jaw jazz jelly jewel job join joke journey joy judge juice july jump june jungle just kangaroo keep kettle key keyboard kick kidney kind king
kingdom kiss kitchen kite kitten knee kneel knife knight knock knot know knowledge koala label ladder lady lake lamb lamp land language lantern
large last late laugh laundry law lawn lawyer lazy leader leaf learn leather leave left leg lemon lend length leopard less lesson letter lettuce
level library license lid lie life lift light lightning like lily limb lime line lion lip liquid list listen little live lizard loaf lobster local
lock log lonely long look loose lose loud love low lucky lunch lung machine magic magnet mail main make mammal man mango many map maple marble
march market marriage mask master match math meadow meal mean measure meat medicine medium meet melon melt member memory mention menu message metal
meter middle midnight mile milk mill million mind mine minnow minute mirror mischief miss mississippi mist mistake mitten mix model modern moment
monday money monkey monster month moon more morning mosquito moss most moth mother motion motor mountain mouse mouth move movie much mud mug mule
muscle museum mushroom music must mystery nail name narrow nature near neat necessary neck necklace need needle neighbor nephew nerve nest net never
new news newspaper next nice niece night nine ninety noble noise noon normal north nose note notebook nothing notice noun november number nurse nut
oak oar oasis oat obey object occasion ocean october octopus odd offer office often oil old olive once one onion only open opera opposite orange
orbit orchard orchestra order organ ostrich other otter outside oval oven over owe owl own owner ox oxygen oyster pack paddle page pail pain paint
pair palace palm pan pancake panda panic paper parade parallel parent park parrot part party pass past pasta paste path patient pattern pause paw pay
pea peace peach peacock peanut pear pearl pebble pelican pen pencil penguin people pepper perfect person piano pick picnic picture pie piece pig
pigeon pillow pilot pin pineapple pink pioneer pipe pirate pizza place plain plan planet plant plastic plate play player please pleasure plenty plow
plum pocket poem poet point poison polar police polite pond pony pool poor popcorn porch possess possible post pot potato pottery pour powder power
practice prepare present pretty price pride prince princess print prison prize problem promise proof proud prove public puddle pull pump pumpkin
punch puppy purple purpose purse push puzzle quality quarter queen question quick quiet quilt quit quite rabbit race racket radio radish raft rail
railroad rain rainbow raisin ranch rapid raspberry rat raven raw ray reach read ready real reason receive recipe recommend record red refrigerator
relax remember rent repeat reply report rescue rest restaurant return reward rhythm ribbon rice rich riddle ride right ring ripe river road roast
robin robot rock rocket roll roof room root rope rose rough round route row royal rubber ruby rug ruler run rush rust sack sad saddle safe sail
sailor salad salmon salt same sand sandwich satellite saturday sauce save saw scale scare scarf scatter school science scissors scratch screen screw
sea seal search season seat second secret see seed sell send sense sentence separate september serious seven shade shadow shake shallow shape share
shark sharp shed sheep shelf shell shepherd shield shine ship shirt shoe shop shore short shoulder shout shovel show shower shrimp shut shy sick side
sight sign silence silk silly silver simple sing sister sit six size skate skeleton skill skin skirt skunk sky sled sleep sleeve slice slide
slip slow small smart smell smile smoke smooth snail snake sneeze snow soap soccer social sock soft soil soldier solid some son song soon sorry sort
soul sound soup sour south space spade spark speak special speech speed spell spend spice spider spill spin spinach spirit splash spoon sport spot
spring square squash squirrel stable stage stair stamp stand star start state station statue stay steady steal steam steel steep stem step stick
still stitch stomach stone stop store storm story stove straight strange straw strawberry stream street strength stretch strike string strong student
study subtle success such sudden sugar suit summer sun sunday sunflower sunset supper suppose sure surface surprise swallow swamp swan sweater sweep
sweet swim swing sword syrup table tail tailor take tale talk tall tame tangerine tank tape task taste tax taxi tea teach teacher team tear teeth
telephone telescope tell temper temple ten tennis tent test thank theater thick thief thin thing think third thirsty thirteen thorn thousand thread
three throat throne throw thumb thunder thursday ticket tide tie tiger tight timber time tin tiny tired title toad toast today toe together tomato
tomorrow tongue tonight tool tooth top torch tornado tortoise touch tough towel tower town toy track tractor trade traffic trail train trap travel
tray treasure treat tree triangle trick trip trombone trouble truck true trumpet trunk trust truth try tub tube tuesday tulip tunnel turkey turn
turnip turtle twelve twenty twig twin twist two ugly umbrella uncle under understand uniform union unit universe until up upon useful usual vacation
valley value van vanilla vase vegetable velvet verb very vest view village vine vinegar violet violin visit voice volcano vote vowel voyage wagon
waist wait wake walk wall walnut walrus want war warm wash wasp waste watch water waterfall watermelon wave wax way weak wealth weapon wear weather
weave wedding wednesday weed week weigh weird welcome well west wet whale wheat wheel when where whip whisper whistle white whole wide wife wild will
willow win wind window wine wing winter wire wise wish witch within wolf woman wonder wood wool word work world worm worry worth wrap wreck wrinkle
wrist write writer wrong yard yarn yawn year yeast yell yellow yesterday yet yogurt young youth zebra zero zipper zone zoo
address accommodate balloon bookkeeper coffee committee embassy foolish goddess happiness illness keenness lesson mammal occurrence possession raccoon
successful tattoo unnecessary vacuum whirlpool zucchini abbreviation accidentally achievement acquaintance advertisement aluminum ambassador
anniversary appearance architecture argument atmosphere bureaucracy camouflage catastrophe championship characteristic chrysanthemum circumference
commercial communication competition concentrate congratulations conscience conversation definitely development disappear disappoint discipline
encyclopedia entertainment environment equipment especially exaggerate experience explanation extraordinary fascinating generation geography
grammar guarantee handkerchief hemisphere imagination independent intelligence kindergarten laboratory literature mathematics microscope millennium
miscellaneous multiplication neighborhood observation opportunity parliament pharmacy philosophy photograph pneumonia population procedure
professional pronunciation psychology questionnaire rectangle refreshment relationship responsibility rhinoceros sacrifice schedule secretary
temperature thermometer thorough tournament transportation trigonometry unfortunately vocabulary volunteer wilderness xylophone yacht zoology
""".split()
COMMON = sorted(set(COMMON))

NAMES = """Anna Ben Clara David Ella Finn Grace Henry Iris Jack Kate Leo Mia Noah Olive Paul Quinn Rosa Sam Tina Uma Victor Wendy Xavier Yara Zoe
Alice Bob Carol Dan Emma Frank Gina Hugo Ivan Julia Karl Lucy Max Nina Oscar Peter Ruth Simon Tom Vera Will Maria John Sara Omar Aisha Chen Priya
Diego Yuki Lena Otto""".split()

THINGS = """apples books coins marbles stamps pencils cookies shells cards eggs oranges candies stickers balloons flowers tickets bottles stones
beads buttons cups plates tomatoes potatoes bananas cakes toys pens keys bricks boxes bags fish birds ducks chairs lamps shirts hats socks nails
screws leaves roses pears lemons muffins sandwiches magnets crayons""".split()

PLACES = """France Japan Brazil Egypt Canada India Spain Kenya Norway Peru Italy China Mexico Germany Turkey Iceland Ghana Cuba Chile Vietnam
London Paris Tokyo Berlin Rome Madrid Cairo Sydney Toronto Oslo Lima Athens Vienna Dublin Seoul""".split()
